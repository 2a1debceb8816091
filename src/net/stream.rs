//! A connection that is plain or TLS.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server;
use zeroize::Zeroize;

use super::TlsStream;

/// Octets that [`Stream::receive`] reads at a time.
const READ: usize = 4096;

/// A TCP connection, with or without TLS on it.
#[derive(Debug)]
pub enum Stream {
    /// As accepted or dialled.
    Plain(TcpStream),
    /// Of a client, behind the handshake.
    Accepted(Box<server::TlsStream<TcpStream>>),
    /// To a server, behind the handshake.
    Tls(Box<TlsStream<TcpStream>>),
    /// Behind a second handshake, through a proxy that is spoken to by TLS.
    Tunnelled(Box<TlsStream<Box<TlsStream<TcpStream>>>>),
}

impl Stream {
    /// Reads once, for `take`; how many octets, none at the end. The buffer lives no longer than the call that fills it:
    /// thousands may wait at once. It is wiped, since a password may have been in it.
    pub async fn receive(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut buffer = [const { MaybeUninit::uninit() }; READ];
            let mut read = ReadBuf::uninit(&mut buffer);
            ready!(Pin::new(&mut *self).poll_read(cx, &mut read))?;
            let octets = read.filled_mut();
            take(octets);
            let count = octets.len();
            octets.zeroize();
            Poll::Ready(Ok(count))
        })
        .await
    }
}

impl AsyncRead for Stream {
    /// A peer that closes TCP without TLS's `close_notify` has just closed: mail protocols know their own
    /// ends, so truncation can't go unseen.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Accepted(stream) => closed(Pin::new(stream).poll_read(cx, buf)),
            Self::Tls(stream) => closed(Pin::new(stream).poll_read(cx, buf)),
            Self::Tunnelled(stream) => closed(Pin::new(stream).poll_read(cx, buf)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Accepted(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tunnelled(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Accepted(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnelled(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Accepted(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnelled(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn closed(read: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
    match read {
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Poll::Ready(Ok(()))
        }
        read => read,
    }
}
