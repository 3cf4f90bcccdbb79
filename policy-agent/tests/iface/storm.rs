//! Pods that live for milliseconds, and pods that flood: nothing is lost, and
//! no address is ever believed to be behind the wrong interface.

use std::{
    fmt::Write,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use policy_agent::iface::{AddressClass, Behind, Change, IfaceError};

use crate::net::{LIMIT, Net, Node, wire};

/// Pods are born and die without pause. The name of each veth says which
/// address may be behind it; numbers of namespaces are reused all the time.
/// (Reuse in the middle of one scan is too rare to be met here; the scan's unit
/// tests script it.)
#[test]
fn an_address_is_never_seen_behind_another_pods_veth() {
    let mut node = Node::after(|_| {});
    let stop = AtomicBool::new(false);
    let mut seen = 0;
    let mut scans = 0;
    let node_net = Net::clone_of(&node.net);
    thread::scope(|scope| {
        for worker in 0..3u32 {
            let (stop, node_net) = (&stop, &node_net);
            scope.spawn(move || {
                let mut number = worker;
                while !stop.load(Ordering::Relaxed) {
                    let pod = Net::new();
                    let name = format!("p{}", number % 250);
                    // The last pod of that name may not be gone yet.
                    wire(node_net, &pod, &format!("{name}x{number}"));
                    pod.ip(format!("address add 10.99.0.{}/32 dev eth0", number % 250));
                    number += 3;
                }
            });
        }
        let start = Instant::now();
        while (seen < 200 || scans < 500) && start.elapsed() < LIMIT {
            // In turns all of it and what the events say.
            let change = if scans % 2 == 0 {
                Change::everything()
            } else {
                let told = node.runtime.block_on(node.watcher.changed());
                told.expect("watcher")
            };
            let snapshot = match node.scanner.scan(&change) {
                Ok(snapshot) => snapshot,
                Err(IfaceError::Interrupted { .. }) => continue,
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{error}");
                }
            };
            scans += 1;
            for (index, behind) in &snapshot.behind {
                let Behind::Addresses(addresses) = behind else {
                    continue;
                };
                let name = &snapshot.links[index].name;
                let mine = name
                    .trim_start_matches('p')
                    .split('x')
                    .next()
                    .expect("a part");
                let mine: IpAddr = format!("10.99.0.{mine}").parse().expect("an address");
                for address in addresses.on_peer.iter().chain(&addresses.beside) {
                    if AddressClass::of(*address) == AddressClass::Global {
                        seen += 1;
                        if *address != mine {
                            stop.store(true, Ordering::Relaxed);
                            panic!("{address} behind {name}");
                        }
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(seen >= 200 && scans >= 500, "saw {seen} in {scans} scans");
    println!("{seen} addresses seen in {scans} scans");
}

/// More events than the socket holds, none of them read.
#[test]
fn lost_events_lead_to_a_full_reading() {
    let pod = Net::new();
    let mut node = Node::after(|node| wire(node, &pod, "vetha"));
    node.settle();
    let mut flood = String::new();
    for number in 0..6_000 {
        let (high, low) = (number / 250, number % 250);
        for what in ["add", "delete"] {
            let _ = writeln!(flood, "address {what} 10.{high}.{low}.1/32 dev eth0");
        }
    }
    let _ = writeln!(flood, "address add 10.77.0.2/32 dev eth0");
    pod.ip(flood);
    let change = node
        .runtime
        .block_on(async { tokio::time::timeout(LIMIT, node.watcher.changed()).await })
        .expect("told")
        .expect("lost events are no failure");
    assert!(change.everything, "{change:?}");
    let snapshot = node.scanner.scan(&change).expect("scan");
    let index = *snapshot.behind.keys().next().expect("one veth");
    let address: IpAddr = "10.77.0.2".parse().expect("a literal address");
    let addresses = snapshot.behind(index).expect("readable");
    assert!(addresses.on_peer.contains(&address));
}

/// A pod that never rests is told about rarely; another one at once.
#[test]
fn a_pod_that_floods_does_not_delay_the_news_of_another() {
    let (noisy, quiet) = (Net::new(), Net::new());
    let mut node = Node::after(|node| {
        wire(node, &noisy, "noisy0");
        wire(node, &quiet, "quiet0");
    });
    let wanted: IpAddr = "10.77.0.2".parse().expect("a literal address");
    let stop = AtomicBool::new(false);
    let (told, latency) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut flood = String::new();
            for number in 0..250 {
                for what in ["add", "delete"] {
                    let _ = writeln!(flood, "address {what} 10.1.0.{number}/32 dev eth0");
                }
            }
            while !stop.load(Ordering::Relaxed) {
                noisy.ip(&flood);
            }
        });
        // Flooded long enough for the gap to be at its longest.
        let start = Instant::now();
        let mut told = 0;
        while start.elapsed() < Duration::from_secs(2) {
            let change = node
                .runtime
                .block_on(node.watcher.changed())
                .expect("watcher");
            node.scanner.scan(&change).expect("scan");
            told += 1;
        }
        quiet.ip("address add 10.77.0.2/32 dev eth0");
        let start = Instant::now();
        node.until("the quiet pod's address", |snapshot| {
            snapshot.behind.keys().any(|index| {
                snapshot.links[index].name == "quiet0"
                    && snapshot
                        .behind(*index)
                        .is_some_and(|behind| behind.on_peer.contains(&wanted))
            })
        });
        stop.store(true, Ordering::Relaxed);
        (told, start.elapsed())
    });
    println!("told {told} times in 2 s of flood, then the other pod after {latency:?}");
    assert!(told < 60, "told {told} times in 2 s");
}

/// More addresses than are read, some of which come and go: each scan is bounded, what was
/// known of the pod stays, and another pod is read as ever.
#[test]
fn a_pod_with_too_many_addresses_holds_up_nothing() {
    let (greedy, quiet) = (Net::new(), Net::new());
    greedy.ip("link set lo up");
    let mut node = Node::after(|node| {
        wire(node, &greedy, "greedy0");
        wire(node, &quiet, "quiet0");
    });
    greedy.ip("address add 10.77.0.66/32 dev eth0");
    quiet.ip("address add 10.77.0.2/32 dev eth0");
    node.settle();
    let index = node.index("greedy0");
    let other = node.index("quiet0");
    let known = node.snapshot().behind[&index].clone();
    let mut many = String::new();
    for number in 0..6_000 {
        let (high, low) = (number / 250, number % 250);
        let _ = writeln!(many, "address add 10.{high}.{low}.1/32 dev eth0");
    }
    greedy.ip(many);
    let stop = AtomicBool::new(false);
    let slowest = thread::scope(|scope| {
        scope.spawn(|| {
            let mut flood = String::new();
            for number in 0..250 {
                for what in ["add", "delete"] {
                    let _ = writeln!(flood, "address {what} 10.200.0.{number}/32 dev eth0");
                }
            }
            while !stop.load(Ordering::Relaxed) {
                greedy.ip(&flood);
            }
        });
        let mut slowest = Duration::ZERO;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let change = node
                .runtime
                .block_on(node.watcher.changed())
                .expect("watcher");
            let before = Instant::now();
            let scanner = &mut node.scanner;
            let snapshot = node.net.inside(|| scanner.scan(&change)).expect("scan");
            slowest = slowest.max(before.elapsed());
            if snapshot.excessive.contains(&index) {
                assert_eq!(snapshot.behind[&index], known);
            }
        }
        stop.store(true, Ordering::Relaxed);
        slowest
    });
    let scanner = &mut node.scanner;
    let snapshot = node.net.inside(|| scanner.snapshot()).expect("scan");
    assert_eq!(snapshot.excessive, [index].into());
    assert_eq!(snapshot.behind[&index], known);
    let wanted: IpAddr = "10.77.0.2".parse().expect("a literal address");
    let addresses = snapshot.behind(other).expect("readable");
    assert!(addresses.on_peer.contains(&wanted));
    println!("slowest scan {slowest:?}");
    // Reading all of them once takes longer than any scan may.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
