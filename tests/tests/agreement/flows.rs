//! Connections that are open while a change is made.
//!
//! What the change forbids must be cut at its next packet: TCP both ways, other protocols from the
//! opener, the other way unless policy allows it by itself. What stays allowed loses nothing
//! (semantics 12).

use std::net::IpAddr;
use std::ops::AddAssign;

use policy_agent::datapath::test_run::At;
use policy_common::abi::Direction;
use policy_core::desired::PodRef;
use policy_tests::generate::Rng;
use policy_tests::reference::{Cluster, Packet, Probe, Protocol, Reason, Side};

use crate::compare::{Scene, elsewhere};
use crate::node::Node;
use crate::packet::{answer, answering, following, opening};

/// One end of a connection that was allowed there.
struct Flow {
    /// Which node the pod is on.
    node: usize,
    pod: PodRef,
    number: u32,
    ifindex: u32,
    /// Which way the opener's packets go at this end.
    direction: Direction,
    /// The packet that opened it.
    packet: Packet,
    source_port: u16,
}

/// Open connections.
#[derive(Default)]
pub(crate) struct Flows(Vec<Flow>);

/// What became of open connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fates {
    /// Still allowed, and not disturbed.
    pub(crate) kept: usize,
    /// Not allowed any more, and cut.
    pub(crate) cut: usize,
    /// Cut from the opener; the other direction is allowed by itself.
    pub(crate) halved: usize,
}

impl AddAssign for Fates {
    fn add_assign(&mut self, more: Self) {
        self.kept += more.kept;
        self.cut += more.cut;
        self.halved += more.halved;
    }
}

impl Flows {
    /// Opens the probes' connections at each end that allows them, and uses them both ways.
    ///
    /// # Errors
    /// The packet that should have passed and did not.
    pub(crate) fn open(
        scene: &mut Scene<'_>,
        rng: &mut Rng,
        probes: &[Probe],
    ) -> Result<Self, String> {
        scene.forget_connections();
        let mut flows = Vec::new();
        for probe in probes {
            let packet = scene.cluster.packet(probe).map_err(|e| e.to_string())?;
            let answers = scene.cluster.judge(&packet);
            let ends = [
                (Direction::Egress, packet.source, answers.egress),
                (Direction::Ingress, packet.destination, answers.ingress),
            ];
            if !is_followed(packet.protocol) {
                continue;
            }
            for (direction, address, side) in ends {
                let Some(pod) = scene.store.owner(address).filter(|_| goes_on(&side)) else {
                    continue;
                };
                let (node, ifindex, number) = scene.place(pod)?;
                let flow = Flow {
                    node,
                    pod: pod.clone(),
                    number,
                    ifindex,
                    direction,
                    packet,
                    source_port: scene.next_port(),
                };
                if scene.nodes[node].context().addresses.contains(&flow.peer()) {
                    continue;
                }
                flow.establish(rng, &mut scene.nodes[node])
                    .map_err(|problem| format!("{probe}, opened at {pod}: {problem}"))?;
                flows.push(flow);
            }
        }
        Ok(Self(flows))
    }

    /// Sends packets both ways on every connection whose end is still the same endpoint.
    ///
    /// # Errors
    /// The packet whose fate is not what the objects ask for now.
    pub(crate) fn check(
        self,
        rng: &mut Rng,
        cluster: &Cluster,
        nodes: &mut [Node],
        fates: &mut Fates,
    ) -> Result<(), String> {
        for flow in self.0 {
            let node = &mut nodes[flow.node];
            let is_same = node.programmed.get(&flow.pod).is_some_and(|programmed| {
                (programmed.number, programmed.ifindex) == (flow.number, flow.ifindex)
            });
            // What the node itself may do is another matter.
            if !is_same || node.context().addresses.contains(&flow.peer()) {
                continue;
            }
            let Some(expected) = flow.expected(cluster) else {
                continue;
            };
            let later = [
                (flow.direction, following(&flow.packet, flow.source_port)),
                (flow.back(), answering(&flow.packet, flow.source_port)),
            ];
            let passed = later.map(|(direction, frame)| {
                let at = flow.at(rng, direction);
                node.try_packet(&frame, at).passes
            });
            if passed != expected {
                return Err(format!(
                    "open connection at {} ({:?} {:?} from port {}): there and back passed \
                     {passed:?}, should be {expected:?}",
                    flow.pod, flow.direction, flow.packet, flow.source_port
                ));
            }
            match passed {
                [true, _] => fates.kept += 1,
                [false, false] => fates.cut += 1,
                [false, true] => fates.halved += 1,
            }
        }
        Ok(())
    }
}

impl Flow {
    fn establish(&self, rng: &mut Rng, node: &mut Node) -> Result<(), String> {
        let frames = [
            (
                "opening",
                self.direction,
                opening(rng, &self.packet, self.source_port),
            ),
            (
                "answer",
                self.back(),
                answer(&self.packet, self.source_port),
            ),
            (
                "next",
                self.direction,
                following(&self.packet, self.source_port),
            ),
            (
                "next answer",
                self.back(),
                answering(&self.packet, self.source_port),
            ),
            (
                "cached",
                self.direction,
                following(&self.packet, self.source_port),
            ),
        ];
        for (what, direction, frame) in frames {
            let at = self.at(rng, direction);
            if !node.try_packet(&frame, at).passes {
                return Err(format!("{what} {:?}, {direction:?}: denied", self.packet));
            }
        }
        Ok(())
    }

    /// Whether the opener's packets and those of the other end pass now; `None` if the address
    /// is not the pod's any more.
    fn expected(&self, cluster: &Cluster) -> Option<[bool; 2]> {
        let there = self.packet;
        let back = Packet {
            source: there.destination,
            destination: there.source,
            port: there.port.map(|_| self.source_port),
            ..there
        };
        let own = match self.direction {
            Direction::Egress => there.source,
            Direction::Ingress => there.destination,
        };
        if cluster.owner(own) != Some(self.pod.to_string())
            || cluster.owner(self.peer()) == Some(self.pod.to_string())
        {
            return None;
        }
        let (judged, judged_back) = (cluster.judge(&there), cluster.judge(&back));
        let (side, side_back) = match self.direction {
            Direction::Egress => (judged.egress?, judged_back.ingress?),
            Direction::Ingress => (judged.ingress?, judged_back.egress?),
        };
        let by_itself = there.protocol != Protocol::TCP && side_back.allowed;
        Some([side.allowed, side.allowed || by_itself])
    }

    fn peer(&self) -> IpAddr {
        match self.direction {
            Direction::Egress => self.packet.destination,
            Direction::Ingress => self.packet.source,
        }
    }

    fn back(&self) -> Direction {
        match self.direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        }
    }

    fn at(&self, rng: &mut Rng, direction: Direction) -> At {
        let ingress_ifindex = match direction {
            Direction::Egress => self.ifindex,
            Direction::Ingress => elsewhere(rng, self.ifindex),
        };
        At {
            direction,
            ifindex: self.ifindex,
            ingress_ifindex,
        }
    }
}

/// Protocols whose packets belong to a connection of their own each; the others have no ports.
fn is_followed(protocol: Protocol) -> bool {
    protocol.has_ports() || matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// Policy alone lets it through, and it is no pod's talk with itself.
fn goes_on(side: &Option<Side>) -> bool {
    side.as_ref()
        .is_some_and(|side| matches!(side.reason, Reason::NotIsolated | Reason::Rule))
}
