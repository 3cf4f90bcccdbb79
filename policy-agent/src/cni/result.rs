//! The part of a CNI result that tells a pod's addresses and which interfaces of
//! the node lead to it. Pure; the rest of a result is nobody's business here.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// Addresses and interfaces of a result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Attached {
    /// The addresses of the container's interface, in the result's order.
    pub(super) addresses: Vec<IpAddr>,
    /// Names of the interfaces that are in no sandbox: bridges, and the node's
    /// ends of pairs.
    pub(super) node_interfaces: Vec<String>,
}

/// A CNI result on the wire, of version 0.3 to 1.1.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wire {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    sandbox: Option<String>,
}

impl Interface {
    fn is_in_sandbox(&self) -> bool {
        self.sandbox.as_deref().is_some_and(|path| !path.is_empty())
    }
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
    interface: Option<i64>,
}

/// What is said of the interface `ifname` of the container.
///
/// # Errors
/// Names the field.
pub(super) fn read(wire: &Wire, ifname: &str) -> Result<Attached, String> {
    let interfaces = wire.interfaces.as_deref().unwrap_or_default();
    let mut attached = Attached {
        node_interfaces: interfaces
            .iter()
            .filter(|interface| !interface.is_in_sandbox() && !interface.name.is_empty())
            .map(|interface| interface.name.clone())
            .collect(),
        ..Attached::default()
    };
    for (place, ip) in wire.ips.iter().flatten().enumerate() {
        let address = parse(&ip.address)
            .ok_or_else(|| format!("ips[{place}].address: {:?} is no address", ip.address))?;
        // Without an interface it is the container's.
        let of = ip
            .interface
            .and_then(|index| interfaces.get(usize::try_from(index).ok()?));
        let is_another = of.is_some_and(|of| of.is_in_sandbox() && of.name != ifname);
        if !is_another {
            attached.addresses.push(address);
        }
    }
    Ok(attached)
}

fn parse(text: &str) -> Option<IpAddr> {
    let with_length = text.parse::<IpNet>().map(|net| net.addr());
    with_length.or_else(|_| text.parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(text: &str) -> Result<Attached, String> {
        read(&serde_json::from_str(text).expect("JSON"), "eth0")
    }

    #[test]
    fn results_of_all_plugins_are_read() {
        let cases: [(&str, &[&str], &[&str]); 6] = [
            // bridge
            (
                r#"{"interfaces":[{"name":"cni0","mac":"x"},{"name":"veth1"},
                    {"name":"eth0","sandbox":"/var/run/netns/a"}],
                    "ips":[{"version":"4","interface":2,"address":"10.88.1.2/24","gateway":"10.88.1.1"}]}"#,
                &["10.88.1.2"],
                &["cni0", "veth1"],
            ),
            // ptp, both families
            (
                r#"{"interfaces":[{"name":"veth2","sandbox":""},{"name":"eth0","sandbox":"/n"}],
                    "ips":[{"interface":1,"address":"10.0.0.2/32"},{"interface":1,"address":"fd00::2/128"}]}"#,
                &["10.0.0.2", "fd00::2"],
                &["veth2"],
            ),
            // addresses without interface
            (
                r#"{"interfaces":[{"name":"cali1"}],"ips":[{"address":"10.0.0.3/32"}]}"#,
                &["10.0.0.3"],
                &["cali1"],
            ),
            // a second interface in the sandbox, an address of the node's end
            (
                r#"{"interfaces":[{"name":"v"},{"name":"eth0","sandbox":"/n"},{"name":"dummy0","sandbox":"/n"}],
                    "ips":[{"interface":1,"address":"10.0.0.4/32"},{"interface":2,"address":"10.9.9.9/32"}]}"#,
                &["10.0.0.4"],
                &["v"],
            ),
            // plain addresses, an index beyond the list
            (
                r#"{"ips":[{"interface":7,"address":"10.0.0.5"},{"interface":-1,"address":"fd00::5"}]}"#,
                &["10.0.0.5", "fd00::5"],
                &[],
            ),
            (r#"{"dns":{}}"#, &[], &[]),
        ];
        for (text, addresses, names) in cases {
            let attached = attached(text).expect(text);
            let told: Vec<String> = attached.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(told, addresses, "{text}");
            assert_eq!(attached.node_interfaces, names, "{text}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let error = attached(r#"{"ips":[{"address":"10.0.0.1/32"},{"address":"ten"}]}"#);
        assert_eq!(
            error.expect_err("not an address"),
            r#"ips[1].address: "ten" is no address"#
        );
    }
}
