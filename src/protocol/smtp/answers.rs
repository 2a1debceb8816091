//! The replies of a server to the commands of a session: RFC 5321 section 4.2.
//!
//! Invariant: a reply comes out once its last line is there, on one line of printable ASCII, and no server makes
//! gatepost hold more of it than [`MAX_TEXT`] and a line.

use super::super::input::Input;
use super::super::refusal::printable;
use super::reply::{Reply, status_of};
use super::upstream::reply_code;

/// Lines of one reply. Exchange's have at most three; a server without end would keep the session busy.
const MAX_LINES: u32 = 100;

/// Longest text that is kept of a reply: RFC 5321 section 4.5.3.1.5 has 512 octets for each line, and servers
/// spread a reason over a few.
const MAX_TEXT: usize = 1024;

/// What came is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nonsense(pub(super) String);

/// What a server has answered and nobody has looked at.
#[derive(Default)]
pub(super) struct Answers {
    input: Input,
    /// The text of the reply that is coming in, and how many lines it has.
    text: String,
    lines: u32,
}

impl Answers {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    pub(super) fn into_unread(mut self) -> Vec<u8> {
        self.input.take_rest()
    }

    /// The next reply; none while it is not whole.
    pub(super) fn next(&mut self) -> Result<Option<Reply>, Nonsense> {
        loop {
            let line = match self.input.line() {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(None),
                Err(_) => return Err(Nonsense("an endless line".into())),
            };
            let line = String::from_utf8_lossy(&line);
            let Some((code, last)) = reply_code(&line) else {
                return Err(Nonsense(format!("not an SMTP reply: {}", printable(&line, MAX_TEXT))));
            };
            self.lines += 1;
            if self.lines > MAX_LINES {
                return Err(Nonsense("a reply without end".into()));
            }
            self.append(line.get(4..).unwrap_or_default().trim());
            if last {
                self.lines = 0;
                return Ok(Some(Reply::new(code, std::mem::take(&mut self.text))));
            }
        }
    }

    /// Servers repeat the enhanced code on every line (RFC 2034 section 4); once is enough to read.
    fn append(&mut self, line: &str) {
        let room = MAX_TEXT.saturating_sub(self.text.len());
        if self.text.is_empty() {
            self.text = printable(line, room);
            return;
        }
        let line = line.strip_prefix(status_of(&self.text)).unwrap_or(line).trim_start();
        if room > 1 && !line.is_empty() {
            let line = printable(line, room - 1);
            self.text.push(' ');
            self.text.push_str(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, Nonsense> {
        let mut answers = Answers::default();
        answers.push(bytes);
        answers.next()
    }

    #[test]
    fn lines_become_one() {
        let reply = read(b"550-5.7.60 SMTP; Client does not\r\n550 5.7.60 have permissions\r\n");
        let reply = reply.unwrap().unwrap();
        assert_eq!(reply.to_string(), "550 5.7.60 SMTP; Client does not have permissions");
        let reply = read(b"250-one\n250-\n250 two\n").unwrap().unwrap();
        assert_eq!(reply.to_string(), "250 one two");
        assert_eq!(read(b"250-one\r\n"), Ok(None));
        assert_eq!(read(b"354\r\n").unwrap().unwrap(), Reply::new(354, ""));
    }

    #[test]
    fn a_reply_has_its_bounds() {
        let endless = b"250-x\r\n".repeat(101);
        assert_eq!(read(&endless), Err(Nonsense("a reply without end".into())));
        let long = format!("550-5.0.0 {}\r\n", "x".repeat(400)).repeat(50) + "550 end\r\n";
        let reply = read(long.as_bytes()).unwrap().unwrap();
        assert!((MAX_TEXT - 1..=MAX_TEXT).contains(&reply.text.len()), "{}", reply.text.len());
        assert!(read(&[b'2'; 20_000]).is_err());
        for nonsense in ["hello\r\n", "99 x\r\n", "\r\n", "25\r\n", "2500\r\n"] {
            assert!(read(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }
}
