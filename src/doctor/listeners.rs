//! Where clients connect: whether each port can be had, who has it, and which clients are set otherwise.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use listeners::{Process, Protocol as Transport, SocketState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Case, Code, Finding};
use crate::clock::Clock;
use crate::config::{ListenAddress, Listener};
use crate::net::{Certificate, bind, look_at_certificate};
use crate::protocol::{MAX_LINE, OWN_PROXY_HEADER};
use crate::store::{Mismatch, MismatchKind};
use crate::vocabulary::{Protocol, TlsMode};

/// For a listener on this machine to take a connection and greet.
const ANSWER: Duration = Duration::from_secs(10);

/// A client that was set otherwise so lately still is.
const NOW: Duration = Duration::from_secs(3600);
/// One longer ago may have been mended.
const LATELY: Duration = Duration::from_secs(86_400);

/// Ports below this one are the superuser's on Unix.
const PRIVILEGED: u16 = 1024;

pub(super) async fn examine(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for listener in &case.config.listeners {
        for address in &listener.addresses {
            findings.extend(examine_one(case, listener, address).await);
        }
    }
    if case.live.is_empty() {
        let what = "gatepost is not running: no client can log in";
        let remedy = "`gatepost run`";
        findings.push(Finding::warning(Code::NotRunning, "gatepost run", what, remedy));
    }
    let mismatches = case.live.iter().flat_map(|live| &live.mismatches);
    findings
        .extend(mismatches.filter_map(|(listener, mismatch)| set_otherwise(listener, mismatch)));
    findings
}

async fn examine_one(case: &Case, listener: &Listener, at: &ListenAddress) -> Option<Finding> {
    let subject = format!("{} {at}", listener.protocol);
    let address = at.address;
    match bind(address) {
        Ok(_) if case.live.is_empty() => {
            Some(Finding::ok(Code::Listener, subject, "the port is free"))
        }
        Ok(_) if address.port() == 0 => None,
        Ok(_) => Some(Finding::error(
            Code::Listener,
            subject,
            "gatepost is running, but does not listen here: it was started with another configuration",
            "start `gatepost run` anew",
        )),
        Err(error) if at.optional && error.kind() != io::ErrorKind::AddrInUse => None,
        Err(error) => Some(match error.kind() {
            io::ErrorKind::AddrInUse => in_use(case, listener, address, subject).await,
            io::ErrorKind::PermissionDenied if address.port() < PRIVILEGED => Finding::error(
                Code::Listener,
                subject,
                format!("port {} is the superuser's on this system", address.port()),
                "use a port from 1024 on, or let the program take it: \
                 `setcap cap_net_bind_service=+ep $(command -v gatepost)`",
            ),
            io::ErrorKind::AddrNotAvailable => Finding::error(
                Code::Listener,
                subject,
                "this machine does not have that address",
                "write one that it has (`ip address`), or 0.0.0.0 for all",
            ),
            _ => Finding::error(
                Code::Listener,
                subject,
                format!("it can't be listened on: {error}"),
                "choose another address or port",
            ),
        }),
    }
}

async fn in_use(case: &Case, listener: &Listener, address: SocketAddr, subject: String) -> Finding {
    let holder = holder(address);
    let ours = match &holder {
        Some(process) => case.live.iter().any(|live| live.pid == process.pid),
        // Of another user's process nothing is told; a running gatepost is the likeliest.
        None => !case.live.is_empty(),
    };
    if !ours {
        let who = holder.map_or_else(
            || "another program (run the doctor as root to see which one)".into(),
            |process| format!("{} (process {})", process.name, process.pid),
        );
        let remedy = "stop that program, or give the listener another port; \
                      if it is another gatepost, stop that one";
        let what = format!("the port is taken by {who}");
        return Finding::error(Code::PortTaken, subject, what, remedy);
    }
    match look(listener, address).await {
        Ok(_) => Finding::ok(Code::Listener, subject, "gatepost answers"),
        Err(error) => Finding::error(
            Code::Listener,
            subject,
            format!("gatepost listens, but does not answer: {error}"),
            "a firewall on this machine may be in between; else start `gatepost run` anew, and look at its log",
        ),
    }
}

fn holder(address: SocketAddr) -> Option<Process> {
    let all = listeners::get_all().ok()?;
    let mut holders = all.into_iter().filter(|listener| {
        let (protocol, state) = (&listener.protocol, &listener.state);
        let listens = *protocol == Transport::TCP && *state == SocketState::Listen;
        let ip = listener.socket.ip();
        let here = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
        listens && listener.socket.port() == address.port() && here
    });
    holders.next().map(|listener| listener.process)
}

/// Connects, reads the greeting where there is one in plain text, and begins TLS where there is TLS: the certificate
/// that is shown then.
pub(super) async fn look(
    listener: &Listener,
    address: SocketAddr,
) -> io::Result<Option<Certificate>> {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        reachable.set_ip(loopback);
    }
    let shown = async {
        let mut stream = TcpStream::connect(reachable).await?;
        if listener.is_balancer(stream.local_addr()?.ip()) {
            stream.write_all(OWN_PROXY_HEADER).await?;
        }
        if listener.tls != TlsMode::Implicit {
            line(&mut stream).await?;
        }
        match listener.tls {
            TlsMode::None => return Ok(None),
            TlsMode::StartTls => begin_tls(listener.protocol, &mut stream).await?,
            TlsMode::Implicit => {}
        }
        look_at_certificate(stream).await.map(Some)
    };
    timeout(ANSWER, shown).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Up to where the handshake begins.
async fn begin_tls(protocol: Protocol, stream: &mut TcpStream) -> io::Result<()> {
    let (command, go) = match protocol {
        Protocol::Imap => ("a STARTTLS\r\n", "a OK"),
        Protocol::Pop3 => ("STLS\r\n", "+OK"),
        Protocol::Smtp => ("STARTTLS\r\n", "220"),
    };
    stream.write_all(command.as_bytes()).await?;
    match line(stream).await? {
        answer if answer.starts_with(go.as_bytes()) => Ok(()),
        _ => Err(io::Error::other("it refuses STARTTLS")),
    }
}

/// Octet by octet: what stands behind it is not for here.
async fn line(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < MAX_LINE {
        line.push(stream.read_u8().await?);
    }
    Ok(line)
}

fn set_otherwise(listener: &str, mismatch: &Mismatch) -> Option<Finding> {
    let Mismatch { kind, peer, at, count } = mismatch;
    let ago = Clock::system().now().saturating_since(*at);
    let finding = match ago {
        _ if ago <= NOW => Finding::error,
        _ if ago <= LATELY => Finding::warning,
        _ => return None,
    };
    let times = match count {
        1 => format!("at {}", at.text()),
        count => format!("{count} times, last at {}", at.text()),
    };
    Some(match kind {
        MismatchKind::TlsOnPlainPort => finding(
            Code::ClientTls,
            listener,
            format!(
                "the client at {peer} began with TLS, which this listener does not speak ({times})"
            ),
            "set the client to no encryption (on loopback), or the listener to tls = \"implicit\"",
        ),
        MismatchKind::NoTls => finding(
            Code::ClientPlain,
            listener,
            format!(
                "the client at {peer} began no TLS, offers none that is new enough, or does not trust the \
                 certificate ({times}); the log says which"
            ),
            "set the client to the listener's encryption, and let it trust what `gatepost certificate` prints; \
             or the listener to tls = \"none\" (on loopback)",
        ),
    })
}
