//! Benchmarks of the packet programs and of the control plane, against the design's targets.
//!
//! Packets are tried with `BPF_PROG_TEST_RUN`, in programs and maps of this process alone, and
//! over real sockets in labs of their own. A target that is missed is said, and is no error; a
//! wrong verdict is.

mod cases;
mod control;
mod flood;
mod kernel;
mod layout;
mod packet;
mod packets;
mod ping_pong;
mod report;
mod round_trips;
mod world;

use anyhow::Result;
use policy_agent::datapath::Backend;
use serde_json::json;

use crate::generate::Size;
use packets::Effort;

/// What to measure, and how to tell.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Less of everything: for a first look, and while the machine is busy.
    pub quick: bool,
    /// One JSON document instead of tables.
    pub json: bool,
    /// Only rows with this in their names; `flood`, `round-trips`: that part alone.
    pub filter: String,
    /// Leave the packet programs out.
    pub no_packets: bool,
    /// Leave the control plane out.
    pub no_control: bool,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let effort = if options.quick {
        Effort {
            rounds: 5,
            packets: 20_000,
        }
    } else {
        Effort {
            rounds: 15,
            packets: 200_000,
        }
    };
    let say = |line: String| {
        if !options.json {
            println!("{line}");
        }
    };
    let mut document = json!({});
    let only = |part| options.filter == part;
    let is_part = only(flood::NAME) || only(round_trips::NAME);
    let all_packets = !options.no_packets && options.filter.is_empty();
    if !options.no_packets && !is_part {
        say(report::header());
        let packets = packets::measure(effort, &options.filter, |row| say(report::line(row)))?;
        say(String::new());
        for size in &packets.sizes {
            say(report::size(size));
        }
        document["packets"] = serde_json::to_value(&packets.rows)?;
        document["programs"] = serde_json::to_value(&packets.sizes)?;
    }
    if only(flood::NAME) || all_packets {
        let floods = flood::measure(effort)?;
        say(String::new());
        for flood in &floods {
            say(report::flood(flood));
        }
        document["flood"] = serde_json::to_value(&floods)?;
    }
    if all_packets && Backend::best() != Backend::Tcx {
        say("\nround trips: not measured, since there is no TCX before Linux 6.6".to_owned());
    } else if only(round_trips::NAME) || all_packets {
        say(String::new());
        say(report::round_trips_header());
        let flows = round_trips::measure(effort, |row| say(report::round_trips(row)))?;
        document["round_trips"] = serde_json::to_value(&flows)?;
    }
    if !options.no_control && !is_part {
        let (repeat, events) = if options.quick { (5, 500) } else { (9, 5_000) };
        let mut all = control::Control::default();
        for size in [Size::Small, Size::Medium] {
            let control = control::measure(size, repeat, events)?;
            say(String::new());
            for row in &control.cold {
                say(report::cold(row));
            }
            say(report::warm_header());
            for row in &control.warm {
                say(report::warm(row));
            }
            all.cold.extend(control.cold);
            all.warm.extend(control.warm);
        }
        document["control"] = serde_json::to_value(&all)?;
    }
    if options.json {
        println!("{document:#}");
    }
    Ok(())
}
