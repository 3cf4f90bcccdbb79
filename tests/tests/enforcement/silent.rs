//! Openers that say nothing any more: what the other side sends them passes by a
//! record of the connection and by nothing else, so it shows whether records live.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, Sniffer, received, slowed, wait_for};

use crate::node::BOUND;

/// What nobody asked for; the sniffer knows it by this.
const STRAY: &[u8] = b"stray";
/// A port of the opener's that nothing uses.
const OTHER_PORT: u16 = 7;

/// A pod that has subscribed to what another sends, by datagrams and by a
/// connection, and says nothing any more.
pub(crate) struct Subscription {
    datagrams: UdpSocket,
    stream: TcpStream,
    /// The ends of the one that sends.
    feed: UdpSocket,
    served: TcpStream,
}

impl Subscription {
    /// Subscribes, while that may be. What is sent later and denied is waited for
    /// as long as `patience`.
    pub(crate) fn open(
        reader: &Host,
        feed: &Host,
        family: Family,
        port: u16,
        patience: Duration,
    ) -> Result<Self> {
        let to = SocketAddr::new(feed.address(family)?, port);
        let any: IpAddr = match family {
            Family::V4 => [0; 4].into(),
            Family::V6 => [0_u16; 8].into(),
        };
        let (feed_socket, listener) = feed
            .netns()
            .run(|| -> Result<_> { Ok((UdpSocket::bind(to)?, TcpListener::bind(to)?)) })??;
        let (datagrams, stream) = reader.netns().run(|| -> Result<_> {
            let datagrams = UdpSocket::bind((any, 0))?;
            datagrams.connect(to)?;
            datagrams.send(b"subscribe")?;
            Ok((datagrams, TcpStream::connect_timeout(&to, patience)?))
        })??;
        let (served, _) = listener.accept().context("accept")?;
        for socket in [&feed_socket, &datagrams] {
            socket.set_read_timeout(Some(patience))?;
        }
        stream.set_read_timeout(Some(patience))?;
        let mut subscriber = None;
        arrives(|| {
            let (length, from) = feed_socket.recv_from(&mut [0; 16])?;
            subscriber = Some(from);
            Ok(length)
        })?;
        let subscriber = subscriber.context("nobody subscribes")?;
        feed_socket.connect(subscriber)?;
        let mut open = Self {
            datagrams,
            stream,
            feed: feed_socket,
            served,
        };
        ensure!(open.delivers()? == (true, true), "at first");
        Ok(open)
    }

    /// Whether what is sent now arrives: by datagram, by connection.
    pub(crate) fn delivers(&mut self) -> Result<(bool, bool)> {
        self.feed.send(b"news").context("send a datagram")?;
        self.served.write_all(b"news").context("write")?;
        let datagram = arrives(|| self.datagrams.recv(&mut [0; 16]))?;
        Ok((datagram, arrives(|| self.stream.read(&mut [0; 16]))?))
    }
}

/// Whether anything is received before the time is up.
pub(crate) fn arrives(receive: impl FnMut() -> std::io::Result<usize>) -> Result<bool> {
    Ok(received(receive)?.is_some_and(|length| length > 0))
}

/// Subscriptions of both families, and beside them datagrams that nobody asked for.
pub(crate) struct Silent {
    subscriptions: Vec<Subscription>,
    strays: Strays,
}

impl Silent {
    /// Opens them, while policy is in force.
    pub(crate) fn open(reader: &Host, feed: &Host, port: u16, strays: Strays) -> Result<Self> {
        let open = |family| Subscription::open(reader, feed, family, port, slowed(BOUND));
        let subscriptions = Family::BOTH.into_iter().map(open);
        Ok(Self {
            subscriptions: subscriptions.collect::<Result<_>>()?,
            strays,
        })
    }

    /// Makes sure that the opener gets what is sent now.
    pub(crate) fn ensure_served(&mut self) -> Result<()> {
        self.strays.send()?;
        for (subscription, family) in self.subscriptions.iter_mut().zip(Family::BOTH) {
            let delivers = subscription.delivers()?;
            ensure!(
                delivers == (true, true),
                "{family:?}: a silent opener gets datagrams, segments: {delivers:?}"
            );
        }
        Ok(())
    }

    /// Ends, and makes sure that the opener got nothing else. What was sent before
    /// something that arrived has arrived too.
    pub(crate) fn ensure_nothing_else(mut self) -> Result<()> {
        self.ensure_served()?;
        let strays = self.strays.heard.stop()?;
        ensure!(self.strays.sent > 0 && strays.is_empty(), "{strays:?}");
        Ok(())
    }
}

/// Datagrams to a pod that asked for none, from its own peer, whose policy denies
/// them, and from a pod whose policy does not.
pub(crate) struct Strays {
    from: Vec<(UdpSocket, SocketAddr)>,
    heard: Sniffer,
    sent: usize,
}

impl Strays {
    /// Makes them ready while nothing is isolated, and sends what arrives then.
    pub(crate) fn prove(to: &Host, senders: [&Host; 2]) -> Result<Self> {
        let mut from = Vec::new();
        for sender in senders {
            for family in Family::BOTH {
                let own = sender.address(family)?;
                let socket = sender.netns().run(|| UdpSocket::bind((own, 0)))??;
                from.push((socket, SocketAddr::new(to.address(family)?, OTHER_PORT)));
            }
        }
        let hear = || Sniffer::start(to, |packet| packet.payload == STRAY);
        let mut strays = Self {
            from,
            heard: hear()?,
            sent: 0,
        };
        strays.send()?;
        wait_for("strays while nothing is isolated", BOUND, || {
            strays.heard.count() >= strays.sent
        })?;
        strays.heard = hear()?;
        strays.sent = 0;
        Ok(strays)
    }

    fn send(&mut self) -> Result<()> {
        for (socket, to) in &self.from {
            socket.send_to(STRAY, to).context("send a stray")?;
            self.sent += 1;
        }
        Ok(())
    }
}
