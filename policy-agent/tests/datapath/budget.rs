//! How much of the verifier's patience the programs use, and how large they are.
//!
//! The kernel gives up at a million instructions, counted over all ways through a
//! program; the oldest kernel that is supported counts the most. What is left is
//! for the next feature, and for compilers that lay things out another way. The
//! same test runs on the kernels of `cargo xtask vm`.

use policy_agent::{datapath::preflight, object};

use crate::bed::on_bed;

/// Instructions verified at most, and bytes of machine code, by program. Measured
/// when this was written, on x86-64, by kernels 6.1.176 and 6.18.44: `from_pod`
/// 134,000 and 115,000, `to_pod` 162,000 and 99,000, `to_wire` 38,000 and 18,000;
/// 54, 45 and 30 KB. `from_wire`, later, by 6.18: 8,000; 15 KB.
const BUDGET: [(&str, u32, u32); 5] = [
    ("from_pod", 200_000, 60_000),
    ("to_pod", 250_000, 55_000),
    ("to_wire", 80_000, 35_000),
    ("from_wire", 40_000, 20_000),
    ("prefilter", 1_000, 2_000),
];

#[test]
fn programs_stay_within_their_budget() {
    on_bed(|_| {
        let programs = preflight::verify(object::bytes().unwrap()).unwrap();
        let names: Vec<_> = programs.iter().map(|program| program.name).collect();
        assert_eq!(names, BUDGET.map(|(name, ..)| name));
        for (program, (name, instructions, bytes)) in programs.iter().zip(BUDGET) {
            println!(
                "{name}: {} of {instructions} instructions, {} of {bytes} bytes",
                program.verified_instructions, program.jited_bytes
            );
            assert!(program.verified_instructions > 0, "{program:?}");
            assert!(program.verified_instructions <= instructions, "{program:?}");
            assert!(program.jited_bytes <= bytes, "{program:?}");
        }
    });
}
