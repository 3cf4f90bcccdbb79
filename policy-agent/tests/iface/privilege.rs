//! What happens without the capabilities: said, and nothing invented.

use policy_agent::iface::{AddressClass, Behind, IfaceError, Scanner, Watcher};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::net::{Net, wire};

/// Gives up capabilities of the calling thread, which must be a passing one.
fn give_up(set: CapabilitySet) {
    let mut now = capabilities(None).expect("own capabilities");
    now.effective.remove(set);
    now.permitted.remove(set);
    now.inheritable.remove(set);
    set_capabilities(None, now).expect("capabilities can be given up");
}

#[test]
fn without_net_admin_a_veth_is_denied_and_never_shows_the_nodes_addresses() {
    let (node, pod) = (Net::new(), Net::new());
    wire(&node, &pod, "vetha");
    node.ip("address add 192.0.2.1/24 dev vetha");
    pod.ip("address add 10.77.0.2/24 dev eth0");
    let snapshot = node.inside(|| {
        give_up(CapabilitySet::NET_ADMIN);
        let mut scanner = Scanner::new(None).expect("needs no capability");
        scanner.snapshot().expect("links need no capability")
    });
    let behind: Vec<_> = snapshot.behind.values().collect();
    assert_eq!(behind, [&Behind::Denied]);
    let global = snapshot
        .own_addresses
        .iter()
        .filter(|own| own.class == AddressClass::Global);
    assert_eq!(global.count(), 1);
}

#[test]
fn without_net_broadcast_addresses_are_found_by_polling() {
    let (node, pod) = (Net::new(), Net::new());
    wire(&node, &pod, "vetha");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let (mut watcher, mut scanner) = node.inside(|| {
        give_up(CapabilitySet::NET_BROADCAST);
        let _entered = runtime.enter();
        let watcher = Watcher::new(None).expect("works without");
        (watcher, Scanner::new(None).expect("scanner"))
    });
    assert!(matches!(
        watcher.degraded(),
        Some(IfaceError::Permission { .. })
    ));
    // The first telling comes before the address.
    let mut changed = || {
        let limit = crate::net::LIMIT;
        runtime
            .block_on(async { tokio::time::timeout(limit, watcher.changed()).await })
            .expect("polls never stop")
            .expect("watcher")
    };
    let before = scanner.scan(&changed()).expect("scan");
    let index = *before.behind.keys().next().expect("one veth");
    let address = "10.77.0.2".parse().expect("a literal address");
    assert!(
        !before
            .behind(index)
            .expect("readable")
            .on_peer
            .contains(&address)
    );
    pod.ip("address add 10.77.0.2/24 dev eth0");
    for _ in 0..20 {
        let snapshot = scanner.scan(&changed()).expect("scan");
        if snapshot
            .behind(index)
            .expect("readable")
            .on_peer
            .contains(&address)
        {
            return;
        }
    }
    panic!("not found in 20 polls");
}
