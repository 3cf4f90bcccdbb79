//! Verdict events: the record on the ring, and why packets are dropped.

/// A verdict, as the kernel reports it. User space adds the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct VerdictEvent {
    /// CLOCK_MONOTONIC (coarse), nanoseconds.
    pub time_ns: u64,
    /// Source address, wire order; IPv4 as `::ffff:a.b.c.d`.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Number of the endpoint; 0: the interface has none.
    pub endpoint: u32,
    /// Interface index of the host side of the veth.
    pub ifindex: u32,
    /// Identity of the peer, where it was looked up.
    pub identity: u32,
    /// Rule that decided, see [`super::policy::RuleId`].
    pub rule: u32,
    /// Source port, host order.
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
    /// [`DropReason`] as a number; 0: it passed.
    pub reason: u8,
    /// 0 ingress, 1 egress: [`super::Direction::index`].
    pub direction: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// 4, 6, or 0 for what is not IP.
    pub family: u8,
    /// ICMP type, or TCP flags byte; else 0.
    pub detail: u8,
    /// Zero.
    pub pad: [u8; 7],
}

const _: () = assert!(size_of::<VerdictEvent>() == 72);

macro_rules! drop_reasons {
    ($( $(#[$doc:meta])* $name:ident = $number:literal, $text:literal; )*) => {
        /// Why a packet was dropped. Numbers are part of the ABI.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $( $(#[$doc])* $name = $number, )*
        }

        impl DropReason {
            /// Every reason, in order of number.
            pub const ALL: &'static [Self] = &[$( Self::$name, )*];

            /// The reason's name in output, metrics and documentation.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// The reason with this number; 0 and unknown numbers give `None`.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $( $number => Some(Self::$name), )* _ => None }
            }
        }
    };
}

drop_reasons! {
    /// The policy in force denies it; the event names the rule or the policies
    /// that isolate the pod.
    Policy = 1, "policy";
    /// A source address, or an address announced by ARP or neighbour
    /// advertisement, that is not the pod's.
    Spoofed = 2, "spoofed-source";
    /// The interface has no endpoint yet, or the address is of the node's pod range and
    /// no endpoint has it, and the packet is not the node's.
    NoEndpoint = 3, "no-endpoint";
    /// Shorter than its headers say.
    Truncated = 4, "truncated";
    /// A header that contradicts itself or its RFC.
    Malformed = 5, "malformed";
    /// A fragment that follows no first one which passed, or a first one that holds
    /// less than what is judged.
    Fragment = 6, "fragment";
    /// More IPv6 extension headers, or larger ones, than the parser walks.
    ExtensionHeaders = 7, "extension-headers";
    /// Neither IP nor ARP.
    EtherType = 8, "ethertype";
    /// A router advertisement or redirect sent by a pod (CVE-2020-10749).
    RouterAdvertisement = 9, "router-advertisement";
    /// An ICMP error that belongs to no known or allowed flow.
    IcmpError = 10, "icmp-error";
    /// The peer's identity has no room in the maps: denied until it has.
    Unresolved = 11, "unresolved-peer";
    /// The policy names a port set or row that is not there.
    Incomplete = 12, "incomplete-policy";
    /// The Service has no endpoints: there is nobody whom policy could allow.
    NoEndpoints = 13, "service-without-endpoints";
    /// The mark says that the sender's policy has not judged the packet, and
    /// there is no such sender.
    UnknownSender = 14, "unknown-sender";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_unique_numbers_and_names_that_read_back() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_number(*reason as u8), Some(*reason));
            assert!(
                DropReason::ALL
                    .iter()
                    .skip(i + 1)
                    .all(|r| r.name() != reason.name())
            );
        }
        assert_eq!(DropReason::from_number(0), None);
        assert_eq!(DropReason::from_number(255), None);
    }
}
