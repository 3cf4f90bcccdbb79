//! What others change in the kernel is found and put right within 5 s, counted:
//! rows, words, settings, links, and programs that come before ours. On the node's
//! own interfaces: `node`.

mod bed;
mod node;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Foreign, Host, Side, Wiring};
use serde_json::json;

use crate::feedback::{get, metric, start_serving};
use crate::folder::{Way, allow};
use crate::node::{Node, bpftool};
use bed::{Bed, Bytes, Effect, number, octets, word};

/// Flows of IPv4 and IPv6 that policy allows and denies.
const ALLOWED: &str = "web to db";
const DENIED: &str = "other to db";
const DENIED6: &str = "other to db, IPv6";
/// From whom other ports are allowed.
const UNLISTED: &str = "web to db, another port";
/// More of them than a port set holds itself.
const PORTS: [u16; 4] = [4000, 4002, 4004, 4006];

/// `web` may reach `db` at [`PORTS`], blocks that nobody has everywhere, and `other`
/// may not.
struct Shop {
    bed: Bed,
    db: Host,
    web: Host,
    other: Host,
}

impl Shop {
    fn new(name: &str) -> Result<Self> {
        let mut node = Node::new(name, Wiring::Bridged)?;
        let db = node.pod("shop/db", &[("app", "db")])?;
        let web = node.pod("shop/web", &[("app", "web")])?;
        let other = node.pod("shop/other", &[("app", "other")])?;
        let mut policy = allow(Way::Ingress, "shop/p", "db", &[("web", &PORTS)]);
        let rules = policy["spec"]["ingress"].as_array_mut().context("rules")?;
        let blocks = ["198.51.100.0/24", "2001:db8::/64"];
        let blocks = blocks.map(|block| json!({"ipBlock": {"cidr": block}}));
        rules.push(json!({"from": blocks}));
        node.folder.put_all("p.json", &[policy])?;
        start_serving(&mut node)?;
        let mut bed = Bed::new(node);
        bed.flow((ALLOWED, true), (&web, &db), Family::V4, 4000)?;
        bed.flow((DENIED, false), (&other, &db), Family::V4, 4002)?;
        bed.flow((DENIED6, false), (&other, &db), Family::V6, 4004)?;
        bed.flow((UNLISTED, false), (&web, &db), Family::V4, 4001)?;
        bed.begin()?;
        Ok(Self {
            bed,
            db,
            web,
            other,
        })
    }

    /// Rows of the policy: that of everybody else, that of web, and the identity of
    /// the latter.
    fn policy(&self) -> Result<[(Bytes, Bytes); 2]> {
        let rows = self.bed.rows("pa_policy")?;
        // The highest number is the one that is kept ready to deny everything.
        let of_policy = |row: &(Bytes, Bytes)| row.0[..2] != word(0xffff)[..2];
        let (mut others, named): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .filter(of_policy)
            .partition(|(key, _)| key[4..8] == word(0)[..]);
        ensure!(others.len() == 1, "one policy: {others:?}");
        let others = others.pop().context("one")?;
        // Which of the others is web's: the identity of its address.
        let addresses = self.bed.rows("pa_id4")?;
        let web = octets(&self.web.v4().context("an IPv4 address")?.octets());
        let row = addresses.iter().find(|row| row.0 == web);
        let (_, row) = row.context("web's address")?;
        let mut named = named.into_iter();
        let of_web = named.find(|(key, _)| key[4..8] == row[8..12]);
        Ok([others, of_web.context("web's row")?])
    }
}

/// Rows of policies: policy, identity; once more; port set.
#[test]
fn rows_of_policies_that_somebody_deleted_changed_or_added_are_put_right() -> Result<()> {
    let shop = Shop::new("drift-rows")?;
    let bed = &shop.bed;
    let [(default_key, default), (web_key, web_says)] = &shop.policy()?;
    let web_identity = &web_key[4..8];
    let addresses = bed.rows("pa_id4")?.len();

    bed.repaired("a row deleted", Effect::Closes, || {
        bed.delete("pa_policy", web_key)
    })?;
    bed.repaired("a row changed", Effect::Opens(DENIED), || {
        let changed = [&default[..8], &web_says[8..]].concat();
        bed.update("pa_policy", default_key, &changed)
    })?;
    bed.repaired("a row that is not its key's", Effect::Closes, || {
        let changed = [&word(77)[..], &web_says[4..]].concat();
        bed.update("pa_policy", web_key, &changed)
    })?;
    let other = octets(&shop.other.v4().context("an address")?.octets());
    bed.repaired("a row too many", Effect::Opens(DENIED), || {
        let row = [&other[..], &word(0)[..], web_identity].concat();
        bed.update("pa_id4", &other, &row)
    })?;
    ensure!(
        bed.rows("pa_id4")?.len() == addresses,
        "the row is gone: {:?}",
        bed.rows("pa_id4")?
    );
    bed.repaired("a setting changed", Effect::Closes, || {
        let (key, mut value) = bed.rows("pa_config")?.pop().context("the settings")?;
        // Flags, newest generation, budget, events, newest endpoint number.
        for byte in value.iter_mut().take(20) {
            *byte = "0x00".to_owned();
        }
        bed.update("pa_config", &key, &value)
    })?;
    shop.bed.finish(5)
}

/// A map, and a row to write into it.
type Row = (&'static str, Bytes, Bytes);
/// Which one does damage now: where it is may be another after each repair.
type Damage = fn(&Shop) -> Result<Row>;

impl Shop {
    /// The slot that db's interface leads to: element of the direct-mapped table, slot.
    fn seat(&self) -> Result<(Bytes, Bytes)> {
        let element = word(self.bed.ifindex("shop/db")? % 16_384);
        let slot = self.bed.value("pa_ifindex", &element)?[4..8].to_vec();
        Ok((element, slot))
    }

    fn word_that_isolates_nobody(&self) -> Result<Row> {
        let (_, slot) = self.seat()?;
        let endpoint = self.bed.value("pa_endpoints", &slot)?;
        // Egress and ingress are 0, the generation as it was.
        let changed = [&word(0)[..], &endpoint[4..]].concat();
        Ok(("pa_endpoints", slot, changed))
    }

    fn interface_that_leads_nowhere(&self) -> Result<Row> {
        Ok(("pa_ifindex", self.seat()?.0, octets(&[0; 8])))
    }

    /// An address, as whoever is allowed.
    fn address(&self) -> Result<Row> {
        let address = octets(&self.other.v6().context("an address")?.octets());
        let identity = self.policy()?[1].0[4..8].to_vec();
        let row = [&address[..], &word(0), &identity].concat();
        Ok(("pa_id6", address, row))
    }

    /// A prefix that is one, likewise.
    fn prefix(&self, map: &'static str, address: &[u8]) -> Result<Row> {
        let (bits, address) = (word(u32::try_from(8 * address.len())?), octets(address));
        let identity = self.policy()?[1].0[4..8].to_vec();
        let key = [&bits[..], &address].concat();
        Ok((map, key, [address, bits, identity].concat()))
    }

    fn prefix4(&self) -> Result<Row> {
        let address = self.other.v4().context("an address")?;
        self.prefix("pa_cidr4", &address.octets())
    }

    fn prefix6(&self) -> Result<Row> {
        let address = self.other.v6().context("an address")?;
        self.prefix("pa_cidr6", &address.octets())
    }

    /// Ports of web: the set, and where its intervals are.
    fn ports(&self) -> Result<(Bytes, Bytes, u32)> {
        let id = self.policy()?[1].1[8..12].to_vec();
        let set = self.bed.value("pa_port_sets", &id)?;
        // Count, extent, rule and action of all else; then intervals.
        let extent = number(&set[4..8])?;
        ensure!(extent != 0, "{} intervals: {set:?}", 2 * PORTS.len());
        Ok((id, set, extent))
    }

    fn every_port(&self) -> Result<Row> {
        let (id, set, _) = self.ports()?;
        let changed = [&set[..12], &word(1), &set[16..]].concat();
        Ok(("pa_port_sets", id, changed))
    }

    fn one_port_more(&self) -> Result<Row> {
        // Those of TCP, which is 6, come before those of UDP, which is 17.
        let at = word(self.ports()?.2 + u32::try_from(PORTS.len())?);
        let interval = self.bed.value("pa_extents", &at)?;
        let port = 17 << 16 | 4000;
        let found = &interval[..8];
        ensure!(*found == [word(port), word(port)].concat(), "{interval:?}");
        let changed = [&interval[..4], &word(port + 1), &interval[8..]].concat();
        Ok(("pa_extents", at, changed))
    }
}

/// One row of each of the other tables that policies are in.
#[test]
fn words_interfaces_addresses_prefixes_and_ports_that_somebody_changed_are_put_right() -> Result<()>
{
    let shop = Shop::new("drift-tables")?;
    let bed = &shop.bed;
    let table: [(Damage, Effect); 7] = [
        (Shop::word_that_isolates_nobody, Effect::Opens(DENIED)),
        (Shop::interface_that_leads_nowhere, Effect::Shuts(ALLOWED)),
        (Shop::address, Effect::Opens(DENIED6)),
        (Shop::prefix4, Effect::Opens(DENIED)),
        (Shop::prefix6, Effect::Opens(DENIED6)),
        (Shop::every_port, Effect::Opens(UNLISTED)),
        (Shop::one_port_more, Effect::Opens(UNLISTED)),
    ];
    for (number, (row, effect)) in table.iter().enumerate() {
        bed.repaired(&format!("table {number}"), *effect, || {
            let (map, key, value) = row(&shop)?;
            bed.update(map, &key, &value).context(map)
        })?;
    }
    let prefixes = bed.rows("pa_cidr4")?;
    let (block, _) = prefixes.first().context("the block's row")?;
    bed.repaired("a prefix removed", Effect::Closes, || {
        bed.delete("pa_cidr4", block)
    })?;
    ensure!(bed.rows("pa_cidr4")? == prefixes, "{prefixes:?}");
    shop.bed.finish(8)
}

#[test]
fn links_that_somebody_detached_or_took_over_are_put_right() -> Result<()> {
    let shop = Shop::new("drift-links")?;
    let bed = &shop.bed;
    let pin = bed.link("shop/db")?;
    bed.repaired("a link detached", Effect::Opens(DENIED), || {
        let shown = bpftool(&["link", "show", "pinned", &pin.display().to_string()])?;
        let id = shown["id"].as_u64().context("an id")?.to_string();
        bpftool(&["link", "detach", "id", &id]).map(drop)
    })?;
    let foreign = Foreign::load("intruder")?;
    bed.repaired("a link with another program", Effect::Opens(DENIED), || {
        foreign.take_over(&bed.link("shop/db")?)
    })?;
    bed.repaired("a pin removed", Effect::Opens(DENIED), || {
        Ok(std::fs::remove_file(bed.link("shop/db")?)?)
    })?;
    shop.bed.finish(3)
}

#[test]
fn program_that_comes_before_ours_is_put_behind_it_and_named() -> Result<()> {
    let shop = Shop::new("drift-front")?;
    let bed = &shop.bed;
    let node = bed.node.lab.node().clone();
    let mut foreign = Foreign::load("intruder")?;
    // Again and again: as somebody does who wants the same.
    for round in 0..3 {
        bed.repaired(&format!("round {round}"), Effect::Opens(DENIED), || {
            foreign.leave();
            foreign.come_first(&node, &shop.db, Side::Egress)
        })?;
    }
    let status = bed.status()?;
    let interface = shop.db.node_interface().context("an interface")?;
    let diagnostics = status["diagnostics"].as_array().context("a list")?;
    let told = diagnostics.iter().any(|diagnostic| {
        let text = diagnostic.to_string();
        text.contains(interface) && text.contains("intruder") && text.contains("first again")
    });
    ensure!(told, "{diagnostics:?}");
    ensure!(status["healthy"] == true, "it is put right: {status}");
    let metrics = get(&bed.node, "/metrics")?.1;
    let sample = r#"policy_agent_displaced_total{program="intruder"}"#;
    ensure!(metric(&metrics, sample)? >= 3.0, "{metrics}");
    ensure!(
        metric(&metrics, "policy_agent_repairs_total")? >= 3.0,
        "{metrics}"
    );

    // Where the pod's own packets come in, too; both at once.
    bed.repaired("both sides", Effect::Opens(DENIED), || {
        foreign.leave();
        foreign.come_first(&node, &shop.db, Side::Egress)?;
        foreign.come_first(&node, &shop.other, Side::Ingress)
    })?;
    // One that stays behind ours is nobody's business.
    let displaced = || metric(&get(&bed.node, "/metrics")?.1, sample);
    let before = displaced()?;
    let pin = bed.link("shop/other")?;
    bed.repaired_once(Effect::Closes, &mut || Ok(std::fs::remove_file(&pin)?))?;
    ensure!(
        displaced()? == before,
        "at the look that found something else"
    );
    drop(foreign);
    shop.bed.finish(5)
}
