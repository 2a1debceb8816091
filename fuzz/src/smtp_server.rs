//! An SMTP server of the test's own, which judges what a watched session brings to it.

/// A server that answers what it reads. A lenient one takes a bare line feed for a line's end everywhere, as
/// some do.
#[derive(Default)]
pub struct Server {
    pub lenient: bool,
    input: Vec<u8>,
    pub out: Vec<u8>,
    state: State,
    sender: bool,
    recipients: Vec<String>,
    chunks: Vec<u8>,
    /// Recipients and content of each message that was taken.
    pub taken: Vec<(Vec<String>, Vec<u8>)>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Commands,
    Content,
    Chunk(usize, bool),
}

impl Server {
    pub fn read(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.advance() {}
    }

    fn advance(&mut self) -> bool {
        match self.state {
            State::Commands => {
                let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
                    return false;
                };
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                let reply = self.command(&line);
                self.out.extend(reply.bytes());
            }
            State::Content => {
                let Some((length, taken)) = self.content_end() else { return false };
                let content: Vec<u8> = self.input.drain(..taken).take(length).collect();
                self.take(content);
            }
            State::Chunk(count, last) => {
                if self.input.len() < count {
                    return false;
                }
                self.chunks.extend(self.input.drain(..count));
                match last {
                    true => {
                        let content = std::mem::take(&mut self.chunks);
                        self.take(content);
                    }
                    false => self.out.extend(b"250 chunk\r\n"),
                }
                self.state = State::Commands;
            }
        }
        true
    }

    /// Octets of the content, and with its end.
    fn content_end(&self) -> Option<(usize, usize)> {
        if self.input.starts_with(b".\r\n") {
            return Some((0, 3));
        }
        let ends: &[&[u8]] =
            if self.lenient { &[b"\n.\r\n", b"\n.\n", b"\r.\r\n"] } else { &[b"\r\n.\r\n"] };
        let at = |end: &&[u8]| {
            let at = self.input.windows(end.len()).position(|window| window == *end)?;
            Some((at, at + end.len()))
        };
        ends.iter().filter_map(at).min_by_key(|(at, _)| *at)
    }

    fn take(&mut self, content: Vec<u8>) {
        let recipients = std::mem::take(&mut self.recipients);
        self.sender = false;
        self.state = State::Commands;
        if content.windows(6).any(|window| window == b"refuse") {
            self.out.extend(b"554-5.2.0 no\r\n554 SubmissionQuotaExceededException\r\n");
        } else {
            self.out.extend(format!("250 2.0.0 taken for {}\r\n", recipients.len()).bytes());
            self.taken.push((recipients, content));
        }
    }

    fn command(&mut self, line: &str) -> String {
        let upper = line.to_uppercase();
        let reply = match upper.split([' ', ':']).next().unwrap() {
            "MAIL" if self.sender => "503 again",
            "MAIL" if upper.contains("BUSY") => {
                "432 4.3.2 slower; Suggested Backoff Time: 1500 milliseconds"
            }
            "MAIL" => {
                self.sender = true;
                "250-2.1.0 fine\r\n250 sender"
            }
            "RCPT" if !self.sender => "503 MAIL first",
            "RCPT" if upper.contains("NOBODY") => "550 5.1.1 nobody",
            "RCPT" => {
                self.recipients.push(line.to_owned());
                "250 2.1.5 recipient"
            }
            "DATA" if self.recipients.is_empty() => "503 RCPT first",
            "DATA" => {
                self.state = State::Content;
                "354 go on"
            }
            // A colon belongs to MAIL FROM and RCPT TO: `BDAT:` is a word that nobody knows.
            "BDAT" if !upper.starts_with("BDAT:") => return self.bdat(&upper),
            "RSET" | "EHLO" | "HELO" => {
                self.sender = false;
                (self.recipients, self.chunks) = (Vec::new(), Vec::new());
                "250-reset\r\n250 done"
            }
            "NOOP" => "250 2.0.0 noop",
            _ => "500 what?",
        };
        format!("{reply}\r\n")
    }

    fn bdat(&mut self, upper: &str) -> String {
        let mut words = upper.split_whitespace().skip(1);
        let Some(count) = words.next().and_then(|count| count.parse().ok()) else {
            return "501 a size\r\n".into();
        };
        self.state = State::Chunk(count, words.next() == Some("LAST"));
        String::new()
    }
}
