//! A probe of the reference, and the packet that it means, in the product's words.

use policy_core::desired::PodRef;
use policy_core::simulate::{Family, Packet as Asked, Port, Question, Who as End};
use policy_tests::reference::{Packet, PortSpec, Probe, Protocol, Who};

/// The packet as the product writes it.
pub(crate) fn as_product(packet: &Packet) -> Asked {
    Asked {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol.0,
        port: packet.port.unwrap_or(0),
    }
}

/// The probe as the product's question.
pub(crate) fn question(probe: &Probe) -> Question {
    let who = |who: &Who| match who {
        Who::Address(address) => End::Address(*address),
        Who::Pod(namespace, name) => End::Pod(PodRef {
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
        }),
    };
    let Protocol(protocol) = probe.protocol;
    Question {
        from: who(&probe.from),
        to: who(&probe.to),
        port: match &probe.port {
            PortSpec::None => Port::None,
            PortSpec::Number(number) => Port::Number(*number),
            PortSpec::Name(name) => Port::Name(name.as_str().into()),
        },
        protocol,
        family: probe.family.map(|family| match family {
            4 => Family::V4,
            _ => Family::V6,
        }),
    }
}
