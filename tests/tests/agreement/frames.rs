//! Frames that nobody sends: the loaded programs beside `policy-common` by itself,
//! on the same bytes. It is the same code, compiled for another machine, which reads
//! packets and tables in another way.

use policy_agent::datapath::test_run::At;
use policy_common::abi::Direction;
use policy_core::ops::Op;
use policy_tests::fuzz::{self, frames};
use policy_tests::generate::Rng;

use crate::bed::on_bed;
use crate::node;

/// Inputs, and how many of a thousand must pass and be dropped for them to tell
/// anything.
const INPUTS: u32 = 4_000;
const PER_MILLE: u32 = 80;
/// What the kernel takes for a frame at least.
const LEAST: usize = 14;
/// A frame that is too short for its own EtherType is not taken either; of such there
/// are few.
const REFUSED_PER_MILLE: u32 = 100;

const SLOT: u32 = 1;

#[test]
fn programs_and_policy_common_say_the_same_of_any_frame() {
    on_bed("frames", |bed| {
        let (datapath, _) = node::open(&bed.bpffs("frames"));
        let [own, other] = [bed.interfaces[0], bed.interfaces[1]];
        let apply = |ops: &[_]| {
            if let Some(failure) = datapath.apply(ops).failure {
                panic!("{failure}");
            }
        };
        apply(&frames::peers());
        apply(&[Op::Interface {
            ifindex: own,
            slot: SLOT,
        }]);
        let seeds = (fuzz::find("packet").expect("a target").seeds)();
        // What is cut or changed much is dropped, most often.
        let passing = |seed: &&Vec<u8>| frames::Case::new(seed).passes;
        let passing: Vec<_> = seeds.iter().filter(passing).cloned().collect();
        let mut rng = Rng::new(11);
        let (mut passed, mut dropped, mut refused) = (0, 0, 0);
        for number in 1..=INPUTS {
            let input = match seeds.get(number as usize - 1) {
                Some(seed) => seed.clone(),
                None if number % 2 == 0 => changed(&mut rng, &passing),
                None => fuzz::near(&mut rng, &seeds),
            };
            let case = frames::Case::new(&input);
            apply(&case.tables(SLOT, own, number));
            let at = At {
                direction: case.direction,
                ifindex: own,
                ingress_ifindex: match case.direction {
                    Direction::Egress => own,
                    Direction::Ingress => other,
                },
            };
            match datapath.test_run(&case.frame, at, 1) {
                Ok(answer) => assert_eq!(
                    answer.passes, case.passes,
                    "{number}: {:?} {:02x?}",
                    case.direction, case.frame
                ),
                Err(error) => {
                    let short = case.frame.len() < LEAST + 40;
                    assert!(short, "{error}: {:02x?}", case.frame);
                    refused += 1;
                    continue;
                }
            }
            *(if case.passes {
                &mut passed
            } else {
                &mut dropped
            }) += 1;
        }
        let enough = INPUTS * PER_MILLE / 1_000;
        assert!(passed > enough && dropped > enough, "{passed} {dropped}");
        assert!(refused <= INPUTS * REFUSED_PER_MILLE / 1_000, "{refused}");
    });
}

/// One of these inputs with one byte changed.
fn changed(rng: &mut Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut input = rng.pick(inputs).clone();
    let place = rng.below(input.len());
    input[place] = u8::try_from(rng.below(256)).expect("a byte");
    input
}
