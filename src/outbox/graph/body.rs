//! What a request carries: octets, or a message that is encoded while it is sent.
//!
//! Invariant: of what is encoded a few pieces are in memory, and as many octets go as were told.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::fault::Fault;
use super::large::apart;
use crate::outbox::{Attachment, Content};

/// Octets that are read and encoded at once.
const CHUNK: usize = 48 << 10;

/// It can be sent again.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// As they are.
    Octets(Bytes),
    /// In base64: a header, and the message from a place on.
    Message { header: Bytes, content: Content, behind: usize },
}

/// Where the pieces of a flow are put in.
pub(super) type Inlet = mpsc::Sender<Bytes>;

/// A body of known length that is made while it is sent.
#[derive(Debug)]
pub(super) struct Flow {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
}

impl Flow {
    /// Of so many octets. If its inlet is gone before, the request fails.
    pub(super) fn new(length: usize) -> (Inlet, Self) {
        // One that is read while another one is sent.
        let (inlet, pieces) = mpsc::channel(1);
        (inlet, Self { pieces, left: u64::try_from(length).unwrap_or(u64::MAX) })
    }
}

impl http_body::Body for Flow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| {
            let Some(piece) = piece else { return Some(Err(io::ErrorKind::UnexpectedEof.into())) };
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            self.left = self.left.saturating_sub(length);
            Some(Ok(Frame::data(piece)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What [`encode`] makes of them.
pub(super) fn encoded_length(header: &Bytes, content: &Content, behind: usize) -> usize {
    (header.len() + content.length().saturating_sub(behind)).div_ceil(3) * 4
}

/// A header, and the message from a place on, in base64. It ends early when nobody takes it.
pub(super) async fn encode(
    inlet: Inlet,
    mut header: Bytes,
    content: Content,
    behind: usize,
) -> Result<(), Fault> {
    let mut octets: Vec<u8> = Vec::with_capacity(2 * CHUNK);
    let mut at = behind;
    loop {
        let piece = match header.len() {
            0 => {
                let (content, from) = (content.clone(), at);
                let read = move || content.at(from..from + CHUNK).map(std::borrow::Cow::into_owned);
                let piece = apart(read).await?.map_err(Fault::Unreadable)?;
                at += piece.len();
                Bytes::from(piece)
            }
            length => header.split_to(length.min(CHUNK)),
        };
        octets.extend_from_slice(&piece);
        // Three octets are four letters; what is left over waits for the next piece.
        let whole = if piece.is_empty() { octets.len() } else { octets.len() / 3 * 3 };
        let text = BASE64_STANDARD.encode(octets.get(..whole).unwrap_or_default());
        octets.drain(..whole);
        if (!text.is_empty() && inlet.send(text.into()).await.is_err()) || piece.is_empty() {
            return Ok(());
        }
    }
}

/// The next octets of an attachment; gives what is left of it.
pub(super) async fn pour(
    inlet: Inlet,
    mut attachment: Attachment,
    length: usize,
) -> Result<Attachment, Fault> {
    let mut left = length;
    while left > 0 {
        let (piece, rest) = attachment.next(left.min(CHUNK)).await.map_err(Fault::Unreadable)?;
        attachment = rest;
        left -= piece.len();
        if piece.is_empty() || inlet.send(piece.into()).await.is_err() {
            break;
        }
    }
    Ok(attachment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_encoded_as_a_whole() {
        let message: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for (header, size, behind) in
            [(0, 200_000, 0), (100, 199_999, 50), (100_001, 150_000, 70_000), (7, 7, 7), (0, 0, 0)]
        {
            let content = Content::of_octets(message[..size].to_vec());
            let header = Bytes::from(message[..header].to_vec());
            let expected = BASE64_STANDARD.encode([&header, &message[behind..size]].concat());
            assert_eq!(encoded_length(&header, &content, behind), expected.len());
            let (inlet, mut flow) = Flow::new(expected.len());
            let encoding = tokio::spawn(encode(inlet, header, content, behind));
            let mut text = Vec::new();
            while let Some(piece) = flow.pieces.recv().await {
                text.extend_from_slice(&piece);
            }
            assert!(text == expected.as_bytes() && encoding.await.unwrap().is_ok());
        }
    }
}
