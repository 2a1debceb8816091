//! The content of a message, on its way through a [`Receiver`].
//!
//! Invariant: what belongs to no message that is taken is read all the same, so that it is not taken for commands.

use super::super::reply::Reply;
use super::super::transaction::Transaction;
use super::{Carrier, Receiver, ReceiverStep, State};

impl Receiver {
    /// Octets behind DATA; whether there was anything to do.
    pub(super) fn data(&mut self) -> bool {
        let Transaction::Begun(decoder) = &mut self.transaction else { return false };
        if self.input.is_empty() {
            return false;
        }
        let octets = self.input.take_rest();
        let (was_void, fed) = (decoder.fault().is_some(), decoder.feed(&octets));
        self.input.push(octets.get(fed.used..).unwrap_or_default());
        let (fault, mends) = (decoder.fault(), decoder.mends());
        match fault {
            None => self.chunk_out(fed.out),
            Some(fault) if !was_void => {
                self.ahead.push_back(ReceiverStep::Abort(fault.text().into()))
            }
            Some(_) => {}
        }
        match fault {
            _ if !fed.end => {}
            None => {
                self.ahead.push_back(ReceiverStep::End(mends));
                self.state = State::Ended;
            }
            Some(fault) => {
                self.transaction = Transaction::None;
                self.state = State::Command;
                self.say(&fault.reply(self.rules.max_size));
            }
        }
        true
    }

    /// Octets of a chunk of BDAT, of which so many are left.
    pub(super) fn chunk(&mut self, left: u64, last: bool) -> bool {
        let Transaction::Begun(decoder) = &mut self.transaction else { return false };
        if left > 0 && self.input.is_empty() {
            return false;
        }
        let octets = self.input.take_some(left);
        let left = left.saturating_sub(u64::try_from(octets.len()).unwrap_or(u64::MAX));
        let mut out = decoder.feed(&octets).out;
        if left == 0 && last {
            out.append(&mut decoder.finish());
        }
        if let Some(fault) = decoder.fault() {
            self.reset(fault.text());
            self.transaction = Transaction::Refused;
            self.state = State::Skip(left, fault.reply(self.rules.max_size));
            return true;
        }
        let mends = decoder.mends();
        self.chunk_out(out);
        match (left, last) {
            (0, true) => {
                self.ahead.push_back(ReceiverStep::End(mends));
                self.state = State::Ended;
            }
            (0, false) => {
                self.state = State::Command;
                self.say(&Reply::new(250, "2.6.0 chunk taken"));
            }
            _ => self.state = State::Content(Carrier::Bdat { left, last }),
        }
        true
    }

    fn chunk_out(&mut self, out: Vec<u8>) {
        if !out.is_empty() {
            self.ahead.push_back(ReceiverStep::Chunk(out));
        }
    }

    /// Reads what nobody wants, then says why.
    pub(super) fn skip(&mut self, left: u64) -> bool {
        if left > 0 && self.input.is_empty() {
            return false;
        }
        let count = self.input.take_some(left).len();
        let State::Skip(left, reply) = &mut self.state else { return false };
        *left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        if *left == 0 {
            let reply = reply.clone();
            self.state = State::Command;
            self.unready(&reply);
        }
        true
    }
}
