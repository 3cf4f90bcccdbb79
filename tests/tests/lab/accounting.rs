//! Flows and sniffers: zero loss when nothing is disturbed, and every loss
//! found when something is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Arrival, ChurnSpec, Direction, Family, Lab, Parsed, ServeSpec, Server, Sniffer, TcpChurn,
    TcpFlow, TcpSpec, UdpSpec, UdpStream, Wiring, message_of, now_ns, slowed, wait_for,
};

use crate::connectivity::{v4, v6};

const BOUND: Duration = Duration::from_secs(10);

/// Without a lost segment an echo is back before TCP would send again (200 ms
/// at least).
const STALL: Duration = Duration::from_millis(190);

#[test]
fn undisturbed_flows_lose_nothing() -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let mut lab = Lab::new("undisturbed", wiring)?;
        let from = lab.pod("a/from", v4(10), v6(10))?;
        let to = lab.pod("a/to", v4(11), v6(11))?;
        let server = Server::start(&to, &ServeSpec::ports(&[80]))?;
        for family in Family::BOTH {
            let udp = UdpStream::start(&UdpSpec::new(&from, &to, family, 9000)?.reply())?;
            let tcp = TcpFlow::start(&TcpSpec::new(&from, &to, family, 80)?)?;
            let churn = TcpChurn::start(&ChurnSpec::new(&from, &to, family, 80)?)?;
            wait_for("500 datagrams, 50 messages, 10 connections", BOUND, || {
                udp.replied() >= 500 && tcp.echoed() >= 50 && churn.succeeded() >= 10
            })?;
            let (udp, tcp, churn) = (udp.stop()?, tcp.stop()?, churn.stop()?);
            let lost = udp.lost().len() + udp.unanswered().len();
            ensure!(lost == 0, "{}", udp.summary());
            ensure!(udp.duplicates() == 0, "{}", udp.summary());
            let elsewhere = udp.queue_drops + udp.send_errors + udp.foreign;
            ensure!(elsewhere == 0, "{}", udp.summary());
            let plausible = |a: &Arrival| a.sent_ns <= a.received_ns && a.received_ns < now_ns();
            ensure!(udp.arrivals.iter().all(plausible), "the clocks agree");
            ensure!(tcp.is_undisturbed(slowed(STALL)), "{}", tcp.summary());
            ensure!(churn.is_undisturbed(), "{churn:?}");
        }
        wait_for("the server to see the ends", BOUND, || {
            server.connections() == 0
        })?;
        ensure!(server.retransmits() == 0);
    }
    Ok(())
}

/// Disturbs the way to a pod with `breaking`, repairs it with `mending`, and
/// checks that the accounts tell exactly that.
fn outage(wiring: Wiring, breaking: &str, mending: &[&str]) -> Result<()> {
    let mut lab = Lab::new("outage", wiring)?;
    let from = lab.pod("a/from", v4(10), v6(10))?;
    let to = lab.pod("a/to", v4(11), v6(11))?;
    let bystander = lab.pod("a/bystander", v4(12), v6(12))?;
    let server = Server::start(&to, &ServeSpec::ports(&[80]))?;
    let is_stream = |packet: &Parsed| packet.protocol == 17 && packet.dport == 9000;
    let sniffer = Sniffer::start(&to, is_stream)?;
    let udp = UdpStream::start(&UdpSpec::new(&from, &to, Family::V4, 9000)?)?;
    let spared = UdpStream::start(&UdpSpec::new(&from, &bystander, Family::V4, 9000)?)?;
    let tcp = TcpFlow::start(&TcpSpec::new(&from, &to, Family::V4, 80)?)?;
    udp.wait_until_flowing(BOUND)?;
    spared.wait_until_flowing(BOUND)?;
    tcp.wait_until_flowing(BOUND)?;

    let interface = to.node_interface().context("a pod has a link")?;
    let fill = |command: &str| command.replace("LINK", interface);
    let mending: Vec<String> = mending.iter().map(|command| fill(command)).collect();
    let mending: Vec<&str> = mending.iter().map(String::as_str).collect();
    let broken_from = now_ns();
    lab.ip(lab.node(), &[&fill(breaking)])?;
    let broken_surely = now_ns();
    let (sent, said) = (udp.sent(), tcp.sent());
    wait_for("50 more datagrams and a message", BOUND, || {
        udp.sent() >= sent + 50 && tcp.sent() > said
    })?;
    let broken_still = now_ns();
    lab.ip(lab.node(), &mending)?;
    udp.wait_until_flowing(BOUND)?;
    let mended = now_ns();
    tcp.wait_until_flowing(BOUND)?;

    let (udp, spared, tcp) = (udp.stop()?, spared.stop()?, tcp.stop()?);
    let lost = udp.lost().len();
    let surely = broken_surely..broken_still;
    ensure!(lost >= 50, "{}", udp.summary());
    ensure!(
        udp.lost_in(surely.clone()).len() == udp.sent_in(surely),
        "nothing passed while the way was broken: {}",
        udp.summary()
    );
    ensure!(
        udp.lost_in(broken_from..mended).len() == lost,
        "nothing was lost before and afterwards: {}",
        udp.summary()
    );
    ensure!(udp.queue_drops == 0 && udp.arrivals.len() + lost == udp.sent_ns.len());
    ensure!(sniffer.stop()?.len() == udp.arrivals.len());
    ensure!(spared.lost().is_empty(), "{}", spared.summary());
    // A message that arrived before the way broke is lost as its echo, if the
    // client's window is full of such.
    wait_for("the server to see the end", BOUND, || {
        server.connections() == 0
    })?;
    let segments = tcp.losses() + server.retransmits();
    ensure!(segments > 0, "{}", tcp.summary());
    ensure!(!tcp.is_undisturbed(STALL) && tcp.error.is_none());
    Ok(())
}

#[test]
fn a_route_into_nowhere_is_found() -> Result<()> {
    outage(
        Wiring::Routed,
        "route replace blackhole 10.244.0.11/32",
        &["route replace 10.244.0.11/32 dev LINK"],
    )
}

#[test]
fn a_link_that_is_down_for_a_moment_is_found() -> Result<()> {
    outage(Wiring::Bridged, "link set LINK down", &["link set LINK up"])
}

#[test]
fn a_revocation_by_time_is_checked_to_the_packet() -> Result<()> {
    let mut lab = Lab::new("revoked", Wiring::Routed)?;
    let from = lab.pod("a/from", v4(10), v6(10))?;
    let to = lab.pod("a/to", v4(11), v6(11))?;
    let udp = UdpStream::start(&UdpSpec::new(&from, &to, Family::V6, 9000)?)?;
    udp.wait_until_flowing(BOUND)?;
    lab.ip(
        lab.node(),
        &["route replace blackhole fd10:244::b/128 metric 1"],
    )?;
    let revoked = now_ns();
    let sent = udp.sent();
    wait_for("50 more datagrams", BOUND, || udp.sent() >= sent + 50)?;
    let udp = udp.stop()?;
    ensure!(udp.delivered_sent_after(revoked).is_empty());
    // The same question finds what was delivered.
    let times = udp.arrivals.iter().map(|arrival| arrival.sent_ns);
    let first = times.min().context("some were delivered")?;
    ensure!(udp.delivered_sent_after(first).len() == udp.arrivals.len() - 1);
    Ok(())
}

#[test]
fn a_sniffer_reads_the_messages_of_a_flow_at_both_ends() -> Result<()> {
    let mut lab = Lab::new("messages", Wiring::Bridged)?;
    let from = lab.pod("a/from", v4(10), v6(10))?;
    let to = lab.pod("a/to", v4(11), v6(11))?;
    let _server = Server::start(&to, &ServeSpec::ports(&[80]))?;
    let of_flow = |packet: &Parsed| packet.dport == 80 && message_of(&packet.payload).is_some();
    let leaving = Sniffer::start_both(&from, move |packet, direction| {
        direction == Direction::Out && of_flow(packet)
    })?;
    let arriving = Sniffer::start(&to, of_flow)?;
    let tcp = TcpFlow::start(&TcpSpec::new(&from, &to, Family::V6, 80)?)?;
    wait_for("20 echoes", BOUND, || tcp.echoed() >= 20)?;
    let tcp = tcp.stop()?;
    let (leaving, arriving) = (leaving.stop()?, arriving.stop()?);
    ensure!(leaving.len() == arriving.len() && leaving.len() <= tcp.sent_ns.len());
    for (left, arrived) in leaving.iter().zip(&arriving) {
        let (seq, sent_ns) = message_of(&left.packet.payload).context("it was filtered")?;
        ensure!(message_of(&arrived.packet.payload) == Some((seq, sent_ns)));
        ensure!(sent_ns <= left.at_ns && left.at_ns <= arrived.at_ns);
        ensure!(tcp.sent_ns[usize::try_from(seq)?] == sent_ns);
    }
    Ok(())
}
