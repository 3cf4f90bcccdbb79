//! One probe put to the reference, to `simulate` and to the kernel, and the three answers compared.
//!
//! The reference says what is right. `simulate` compiles from scratch; the kernel has what became
//! of the tables change by change.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::AddAssign;

use policy_agent::datapath::test_run::At;
use policy_common::abi::Direction;
use policy_common::abi::event::{DropReason, VerdictEvent};
use policy_core::desired::{PodRef, Provenance};
use policy_core::simulate::{self, SideAnswer, Simulator, Verdict, rule_path};
use policy_core::store::Store;
use policy_tests::generate::Rng;
use policy_tests::reference::{Cluster, Packet, Probe, Reason, RuleRef, Side};

use crate::node::Node;
use crate::packet::opening;
use crate::question::{as_product, question};

/// First and last source port that probes use.
const SOURCE_PORTS: (u16, u16) = (20_000, 60_000);

/// Source and destination address, both ports, protocol.
type Flow = (IpAddr, u16, IpAddr, u16, u8);

/// Counts what was compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Packets that a program was asked about.
    pub(crate) packets: usize,
    /// Denied packets whose event named the reference's policies.
    pub(crate) named: usize,
    /// Probes between addresses of IPv4.
    pub(crate) ipv4: usize,
    /// Packets of the own node that others forwarded in its name.
    pub(crate) forwarded: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.named += more.named;
        self.ipv4 += more.ipv4;
        self.forwarded += more.forwarded;
    }
}

/// One state of a cluster, as everybody sees it.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) store: &'a Store,
    pub(crate) simulator: Simulator<'a>,
    pub(crate) nodes: &'a mut [Node],
    /// What was tried since connections were forgotten: a datagram that answers one of these may
    /// pass for that reason.
    datagrams: HashSet<Flow>,
    last_port: u16,
    pub(crate) counts: Counts,
}

impl<'a> Scene<'a> {
    /// A state in which no connection is known.
    pub(crate) fn new(cluster: &'a Cluster, store: &'a Store, nodes: &'a mut [Node]) -> Self {
        let mut scene = Self {
            cluster,
            store,
            simulator: Simulator::new(store),
            nodes,
            datagrams: HashSet::new(),
            last_port: SOURCE_PORTS.0,
            counts: Counts::default(),
        };
        scene.forget_connections();
        scene
    }

    /// Puts the probe to all three.
    ///
    /// # Errors
    /// What they do not agree on.
    pub(crate) fn compare(&mut self, rng: &mut Rng, probe: &Probe) -> Result<(), String> {
        let packet = self.cluster.packet(probe).map_err(|e| e.to_string())?;
        let expected = self.cluster.judge(&packet);
        let question = question(probe);
        let simulated = self
            .simulator
            .ask(&question)
            .map_err(|error| format!("simulate: {error}"))?;
        let meant = question.packet(self.store).map_err(|e| e.to_string())?;
        same("packet", &meant, &as_product(&packet))?;
        let verdict = simulated.verdict == Verdict::Allow;
        same("simulate's verdict", &verdict, &expected.allowed)?;

        let sender = self.owner(packet.source)?;
        let receiver = self.owner(packet.destination)?;
        self.counts.ipv4 += usize::from(packet.source.is_ipv4());
        if sender.is_some() && sender == receiver {
            let passes = self.hairpin(rng, &packet, sender.as_ref())?;
            return same("kernel, to itself", &passes, &expected.allowed);
        }
        compare_sides("simulate, egress", &expected.egress, &simulated.egress)?;
        compare_sides("simulate, ingress", &expected.ingress, &simulated.ingress)?;

        let mut passes = true;
        for (direction, pod, side) in [
            (Direction::Egress, &sender, &expected.egress),
            (Direction::Ingress, &receiver, &expected.ingress),
        ] {
            match (pod, side) {
                (Some(pod), Some(side)) => {
                    let came_from = sender.as_ref();
                    passes &= self
                        .kernel(rng, &packet, direction, pod, came_from, side)
                        .map_err(|error| format!("kernel, {direction:?} of {pod}: {error}"))?;
                }
                (None, None) => {}
                (pod, side) => return Err(format!("{direction:?}: {pod:?} has {side:?}")),
            }
        }
        same("kernel's verdict", &passes, &expected.allowed)
    }

    /// Whose address it is, on which everybody must agree.
    fn owner(&self, address: IpAddr) -> Result<Option<PodRef>, String> {
        let owner = self.store.owner(address).cloned();
        let name = owner.as_ref().map(ToString::to_string);
        same("owner", &name, &self.cluster.owner(address))?;
        Ok(owner)
    }

    /// Where a pod is: index of its node, interface, endpoint number.
    pub(crate) fn place(&self, pod: &PodRef) -> Result<(usize, u32, u32), String> {
        let spec = self.store.pod(pod).ok_or("unknown pod")?;
        let node = self
            .nodes
            .iter()
            .position(|node| node.context().runs(spec))
            .ok_or("no such node")?;
        let programmed = self.nodes[node].programmed.get(pod).ok_or("no endpoint")?;
        Ok((node, programmed.ifindex, programmed.number))
    }

    /// A pod's packet to itself leaves it through a Service only, and comes back by the interface
    /// by which it left.
    fn hairpin(
        &mut self,
        rng: &mut Rng,
        packet: &Packet,
        pod: Option<&PodRef>,
    ) -> Result<bool, String> {
        let (node, ifindex, _) = self.place(pod.ok_or("no pod")?)?;
        let source_port = self.source_port(packet);
        let at = At {
            direction: Direction::Ingress,
            ifindex,
            ingress_ifindex: ifindex,
        };
        let frame = opening(rng, packet, source_port);
        self.counts.packets += 1;
        Ok(self.nodes[node].try_packet(&frame, at).passes)
    }

    /// What the kernel says at one end; an error if the reference says otherwise.
    fn kernel(
        &mut self,
        rng: &mut Rng,
        packet: &Packet,
        direction: Direction,
        pod: &PodRef,
        sender: Option<&PodRef>,
        side: &Side,
    ) -> Result<bool, String> {
        let (node, ifindex, number) = self.place(pod)?;
        let own_node = direction == Direction::Ingress
            && self.nodes[node]
                .context()
                .addresses
                .contains(&packet.source);
        if own_node {
            // Semantics 8 and 9: the exemption is for what the node itself sends, not for what it
            // forwards under its address.
            let at = At {
                direction,
                ifindex,
                ingress_ifindex: elsewhere(rng, ifindex),
            };
            let source_port = self.source_port(packet);
            let frame = opening(rng, packet, source_port);
            let tried = self.nodes[node].try_packet(&frame, at);
            self.counts.packets += 1;
            self.counts.forwarded += 1;
            let by_policy = matches!(side.reason, Reason::Rule | Reason::NotIsolated);
            same("forwarded in its node's name", &tried.passes, &by_policy)?;
        }
        let ingress_ifindex = match direction {
            Direction::Egress => ifindex,
            Direction::Ingress if own_node => 0,
            // What no interface brought is the node's own only if its address says so too.
            Direction::Ingress if rng.percent(10) => 0,
            Direction::Ingress => sender
                .and_then(|sender| self.place(sender).ok())
                .filter(|(its_node, its_ifindex, _)| *its_node == node && *its_ifindex != ifindex)
                .map_or_else(
                    || elsewhere(rng, ifindex),
                    |(_, its_ifindex, _)| its_ifindex,
                ),
        };
        let at = At {
            direction,
            ifindex,
            ingress_ifindex,
        };
        let source_port = self.source_port(packet);
        let frame = opening(rng, packet, source_port);
        let tried = self.nodes[node].try_packet(&frame, at);
        self.counts.packets += 1;
        same("passes", &tried.passes, &side.allowed)?;
        match (&tried.events[..], tried.passes) {
            ([], true) => {}
            ([event], false) => {
                let names = self.policies_of(node, event)?;
                let named: Vec<String> = names.into_iter().collect();
                same("policies named", &named, &side.policies)?;
                check_event(event, packet, source_port, at, number)?;
                self.counts.named += 1;
            }
            (events, passes) => return Err(format!("passes: {passes}, events: {events:?}")),
        }
        Ok(tried.passes)
    }

    /// The isolating policies that an event's rule stands for.
    fn policies_of(
        &mut self,
        node: usize,
        event: &VerdictEvent,
    ) -> Result<BTreeSet<String>, String> {
        match self.nodes[node].desired().rules.get(&event.rule) {
            Some(Provenance::Isolated { policies, .. }) => {
                Ok(policies.iter().map(ToString::to_string).collect())
            }
            other => Err(format!("rule {} is {other:?}", event.rule)),
        }
    }

    /// A source port under which the packet is nobody's reply.
    fn source_port(&mut self, packet: &Packet) -> u16 {
        let port = self.next_port();
        let (from, to, protocol) = (packet.source, packet.destination, packet.protocol.0);
        let (source, destination) = match packet.port {
            Some(destination) => (port, destination),
            None => (0, 0),
        };
        let answered = (to, destination, from, source, protocol);
        if self.datagrams.contains(&answered) {
            self.forget_connections();
        }
        self.datagrams
            .insert((from, source, to, destination, protocol));
        port
    }

    /// The next source port.
    pub(crate) fn next_port(&mut self) -> u16 {
        self.last_port = match self.last_port {
            port if port < SOURCE_PORTS.1 => port + 1,
            _ => SOURCE_PORTS.0,
        };
        self.last_port
    }

    /// All nodes forget all connections.
    pub(crate) fn forget_connections(&mut self) {
        for node in &*self.nodes {
            node.forget_connections();
        }
        self.datagrams.clear();
    }
}

/// Some interface that is not this one.
pub(crate) fn elsewhere(rng: &mut Rng, ifindex: u32) -> u32 {
    match u32::try_from(1 + rng.below(300)).expect("a small number") {
        same if same == ifindex => ifindex + 1,
        other => other,
    }
}

pub(crate) fn compare_sides(
    what: &str,
    expected: &Option<Side>,
    simulated: &Option<SideAnswer>,
) -> Result<(), String> {
    let (side, answer) = match (expected, simulated) {
        (None, None) => return Ok(()),
        (Some(side), Some(answer)) => (side, answer),
        _ => return Err(format!("{what}: {simulated:?}, reference {expected:?}")),
    };
    let agree = (answer.verdict == Verdict::Allow) == side.allowed
        && match (side.reason, answer.reason) {
            (Reason::NotIsolated, simulate::Reason::NotIsolated)
            | (Reason::OwnNode | Reason::Rule, simulate::Reason::OwnNode) => true,
            (Reason::Denied, simulate::Reason::Isolated) => answer.policies == side.policies,
            (Reason::Rule, simulate::Reason::Rule) => names_one_of(answer, &side.rules, what),
            _ => false,
        };
    if agree {
        Ok(())
    } else {
        Err(format!("{what}: {answer:?}, reference {side:?}"))
    }
}

/// Whether the rule that is named is one of those that match.
fn names_one_of(answer: &SideAnswer, rules: &[RuleRef], what: &str) -> bool {
    let direction = if what.ends_with("egress") {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    rules.iter().any(|rule| {
        let index = u32::try_from(rule.index).expect("few rules");
        answer.policies == [rule.policy.clone()]
            && answer.rule.as_deref() == Some(&rule_path(direction, index))
    })
}

fn check_event(
    event: &VerdictEvent,
    packet: &Packet,
    source_port: u16,
    at: At,
    number: u32,
) -> Result<(), String> {
    same("reason", &event.reason, &(DropReason::Policy as u8))?;
    let direction = Direction::from_index(u32::from(event.direction));
    same("direction", &direction, &at.direction)?;
    same("interface", &event.ifindex, &at.ifindex)?;
    same("endpoint", &event.endpoint, &number)?;
    same("source", &event.src, &octets(packet.source))?;
    same("destination", &event.dst, &octets(packet.destination))?;
    same("protocol", &event.protocol, &packet.protocol.0)?;
    let family = if packet.source.is_ipv4() { 4 } else { 6 };
    same("family", &event.family, &family)?;
    if let Some(port) = packet.port {
        let ports = (event.src_port, event.dst_port);
        same("ports", &ports, &(source_port, port))?;
    }
    Ok(())
}

/// As events write addresses.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    is: &T,
    should: &T,
) -> Result<(), String> {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what}: {is:?}, should be {should:?}"))
    }
}
