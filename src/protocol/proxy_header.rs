//! The PROXY header, versions 1 and 2: for whom a load balancer speaks (HAProxy's PROXY protocol, sections 2.1 and 2.2).
//!
//! Read strictly, by code of our own: parsers that are to be had take `+25` for a port, or pass a wrong checksum.
//!
//! Invariant: not one octet behind the header is taken, and of the header nothing is believed but an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crc::{CRC_32_ISCSI, Crc};

/// How version 1 begins, and its longest line (section 2.1).
const START: &[u8] = b"PROXY ";
const MAX_LINE: usize = 107;

/// How version 2 begins (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest rest: section 2.2 asks for 536 octets; with a client certificate's names there may be more.
const MAX_REST: usize = 4096;

/// The value of the type that carries a checksum (section 2.2.3).
const PP2_TYPE_CRC32C: u8 = 0x03;
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What gatepost's own commands say to a listener that awaits a header: they speak for themselves.
pub const OWN_PROXY_HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

/// A header that is being read. The default is one of which nothing has come.
#[derive(Default)]
pub struct ProxyHeader(Vec<u8>);

/// For whom the load balancer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// For itself: a health check.
    Itself,
    /// For the client at this address.
    Client(SocketAddr),
}

/// No header, or none that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHeader;

impl ProxyHeader {
    /// Takes what is the header's of `octets`: how many these are, and whom it announces, once it is whole.
    pub fn push(&mut self, octets: &[u8]) -> Result<(usize, Option<Announced>), NoHeader> {
        for (index, octet) in octets.iter().enumerate() {
            self.0.push(*octet);
            if let Some(announced) = self.look()? {
                return Ok((index + 1, Some(announced)));
            }
        }
        Ok((octets.len(), None))
    }

    /// At what has come up to its last octet.
    fn look(&self) -> Result<Option<Announced>, NoHeader> {
        let octets = self.0.as_slice();
        if octets.starts_with(START) {
            return match octets.last() {
                Some(b'\n') => line(octets).map(Some),
                _ if octets.len() >= MAX_LINE => Err(NoHeader),
                _ => Ok(None),
            };
        }
        let Some(behind) = octets.strip_prefix(SIGNATURE) else {
            let may_be = START.starts_with(octets) || SIGNATURE.starts_with(octets);
            return if may_be { Ok(None) } else { Err(NoHeader) };
        };
        match behind {
            [version, family, high, low, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length > MAX_REST {
                    return Err(NoHeader);
                }
                if rest.len() < length {
                    Ok(None)
                } else {
                    block(octets, *version, *family, rest).map(Some)
                }
            }
            _ => Ok(None),
        }
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 143` CRLF.
fn line(octets: &[u8]) -> Result<Announced, NoHeader> {
    let line = octets.strip_suffix(b"\r\n").ok_or(NoHeader)?;
    // Whatever stands behind UNKNOWN is to be ignored.
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(Announced::Itself);
    }
    let line = std::str::from_utf8(line).map_err(|_| NoHeader)?;
    let words: Vec<&str> = line.split(' ').collect();
    let ["PROXY", family, source, destination, source_port, destination_port] = words.as_slice()
    else {
        return Err(NoHeader);
    };
    let (source, _) = match *family {
        "TCP4" => pair::<Ipv4Addr>(source, destination)?,
        "TCP6" => pair::<Ipv6Addr>(source, destination)?,
        _ => return Err(NoHeader),
    };
    port(destination_port)?;
    Ok(Announced::Client(SocketAddr::new(source, port(source_port)?)))
}

fn pair<T: FromStr + Into<IpAddr>>(one: &str, two: &str) -> Result<(IpAddr, IpAddr), NoHeader> {
    let parse = |text: &str| text.parse::<T>().map(Into::into).map_err(|_| NoHeader);
    Ok((parse(one)?, parse(two)?))
}

/// Digits without a zero before them (section 2.1); `u16` alone would take a plus sign too.
fn port(text: &str) -> Result<u16, NoHeader> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| canonical).ok_or(NoHeader)
}

/// Version 2, whole: `all` for its checksum, `rest` is what its length counts.
fn block(all: &[u8], version: u8, family: u8, rest: &[u8]) -> Result<Announced, NoHeader> {
    let behind = match (version, family) {
        // LOCAL: what else it says is to be ignored.
        (0x20, _) => return Ok(Announced::Itself),
        // PROXY, from an unspecified family.
        (0x21, 0x00) => return checked(all, rest).map(|()| Announced::Itself),
        (0x21, 0x11) => rest.split_first_chunk::<12>().map(|(addresses, fields)| {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            (IpAddr::from([a, b, c, d]), [high, low], fields)
        }),
        (0x21, 0x21) => rest.split_first_chunk::<36>().and_then(|(addresses, fields)| {
            let source = addresses.first_chunk::<16>()?;
            let [high, low, ..] = *addresses.last_chunk::<4>()?;
            Some((IpAddr::from(*source), [high, low], fields))
        }),
        // UDP and Unix sockets are no clients of a mail server.
        _ => None,
    };
    let (source, port, fields) = behind.ok_or(NoHeader)?;
    checked(all, fields)?;
    Ok(Announced::Client(SocketAddr::new(source, u16::from_be_bytes(port))))
}

/// The fields behind the addresses (type, length, value) fill the rest, and a checksum among them is right.
fn checked(all: &[u8], mut fields: &[u8]) -> Result<(), NoHeader> {
    let mut sums = 0;
    while !fields.is_empty() {
        let [kind, high, low, behind @ ..] = fields else { return Err(NoHeader) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = behind.split_at_checked(length).ok_or(NoHeader)?;
        if *kind == PP2_TYPE_CRC32C {
            let sum: [u8; 4] = value.try_into().map_err(|_| NoHeader)?;
            // Computed with zeros in its own place.
            let before = all.len() - next.len() - sum.len();
            let mut digest = CRC32C.digest();
            digest.update(all.get(..before).unwrap_or_default());
            digest.update(&[0; 4]);
            digest.update(next);
            sums += 1;
            if sums > 1 || digest.finalize() != u32::from_be_bytes(sum) {
                return Err(NoHeader);
            }
        }
        fields = next;
    }
    Ok(())
}
