//! Whether other people's rules use the bits of packets' marks that are ours.
//!
//! A best effort, by what `nft` and `iptables-save` print where they are
//! installed: bits in rules' text, not what rules do with them. A rule that
//! overwrites a whole mark wipes ours, which costs a look at more packets, and
//! at what pods send through Services behind a masquerade nothing can be judged
//! any more.

use std::process::Command;

/// Programs that print rules. What is not installed or refuses prints none.
const PRINTERS: [(&str, &[&str]); 3] = [
    ("nft", &["list", "ruleset"]),
    ("iptables-save", &[]),
    ("ip6tables-save", &[]),
];

/// The rules of this network namespace that use bits of the mask, and whether any
/// rules could be read.
pub(super) fn foreign(mask: u32) -> (Vec<String>, bool) {
    let mut rules = Vec::new();
    let mut read = false;
    for (program, arguments) in PRINTERS {
        let Ok(output) = Command::new(program).args(arguments).output() else {
            continue;
        };
        read |= output.status.success();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if bits(line) & mask != 0 {
                rules.push(line.trim().to_owned());
            }
        }
    }
    rules.sort();
    rules.dedup();
    (rules, read)
}

/// Bits of the packet's mark that a rule looks at or changes.
fn bits(rule: &str) -> u32 {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let mut bits = 0;
    for (at, word) in words.iter().enumerate() {
        let rest = words.get(at + 1..).unwrap_or(&[]);
        bits |= match *word {
            // iptables: VALUE/MASK, without a mask the whole mark.
            "--set-xmark" | "--set-mark" | "--mark" => {
                rest.first().map_or(0, |operand| iptables(operand))
            }
            "--restore-mark" => option(rest, "--nfmask").unwrap_or(u32::MAX),
            // nft: `meta mark set EXPRESSION`, also printed as `mark set`.
            "mark" if at == 0 || words.get(at - 1) != Some(&"ct") => match rest.first() {
                Some(&"set") => nft(rest.get(1..).unwrap_or(&[]), u32::MAX),
                _ => nft(rest, 0),
            },
            _ => 0,
        };
    }
    bits
}

fn iptables(operand: &str) -> u32 {
    match operand.split_once('/') {
        Some((value, mask)) => number(value).unwrap_or(0) | number(mask).unwrap_or(0),
        None => u32::MAX,
    }
}

/// Bits that an expression of nft picks from the mark; `plain` where it picks none.
fn nft(words: &[&str], plain: u32) -> u32 {
    let picks = words.windows(2).take(6).find_map(|pair| {
        let value = number(pair.get(1)?)?;
        match *pair.first()? {
            // Clearing some bits leaves the many others.
            "and" | "&" if value.count_ones() > 16 => Some(!value),
            "and" | "&" | "or" | "|" | "xor" | "^" => Some(value),
            _ => None,
        }
    });
    picks.unwrap_or(plain)
}

fn option(words: &[&str], name: &str) -> Option<u32> {
    let at = words.iter().position(|word| *word == name)?;
    number(words.get(at + 1)?)
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim_matches([',', ';', ')', '(']);
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_kube_proxy_portmap_and_aws_are_found_and_no_others() {
        for (rule, expected) in [
            (
                "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
                0x4000,
            ),
            ("-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0", 0x4000),
            (
                "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
                0x8000,
            ),
            ("meta mark set meta mark or 0x00004000", 0x4000),
            ("mark set mark xor 0x4000", 0x4000),
            ("meta mark & 0x00002000 == 0x00002000 masquerade", 0x2000),
            (
                "-A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
                0x80,
            ),
            ("meta mark set mark and 0xffffbfff", 0x4000),
            ("ip daddr 10.0.0.1 tcp dport 80 accept", 0),
        ] {
            assert_eq!(bits(rule), expected, "{rule}");
        }
    }

    #[test]
    fn rule_that_overwrites_the_whole_mark_uses_every_bit() {
        for rule in [
            "-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff",
            "-A PREROUTING -j CONNMARK --restore-mark",
            "meta mark set 0x00000001",
            "meta mark set ct mark",
        ] {
            assert_eq!(bits(rule), u32::MAX, "{rule}");
        }
    }
}
