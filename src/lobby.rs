//! Who is connected and has not logged in: at most so many from one source, and so many in all.
//!
//! The newest is always let in, and at a limit the one who came first goes: a client that means it logs in within
//! a second, one that trickles or says nothing grows old. Over the limit of a source its own oldest goes, so that no
//! source takes another's seat. Over the limit in all it is the oldest of the source that holds most: whoever floods
//! pays for it himself, and a source loses no seat while another one holds more. Only among equals (a flood from
//! thousands of networks) age alone decides.
//!
//! Invariant: what is in the book is never over its limits, and a seat is in it until it is given back, dropped or
//! wanted for somebody else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::config::GuardSettings;

/// The seats of connections that have not logged in.
pub struct Lobby(Mutex<Book>);

/// A place in the lobby; dropped, it is free again.
pub struct Seat {
    lobby: Arc<Lobby>,
    source: Source,
    ticket: u64,
    wanted: CancellationToken,
}

/// The seat is another's now.
#[derive(Debug)]
pub struct Displaced;

impl Lobby {
    /// An empty one.
    pub fn new(settings: &GuardSettings) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Book::new(settings))))
    }

    /// Takes other limits, and holds to them at once.
    pub fn set_guard(&self, settings: &GuardSettings) {
        let mut book = self.book();
        (book.of_one, book.in_all) = (settings.waiting_per_source, settings.waiting);
        let sources: Vec<Source> = book.seats.keys().copied().collect();
        for source in sources {
            book.hold_to_limits(source);
        }
    }

    /// A seat for a connection from `source`.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Seat {
        self.seat(Source::of(source))
    }

    /// A seat for a connection of a load balancer, all of which come from one address: until it has told for whom it
    /// speaks ([`Seat::moves_to`]), only the limit in all holds.
    pub fn enter_balancer(self: &Arc<Self>, balancer: IpAddr) -> Seat {
        self.seat(Source::Balancer(balancer.to_canonical()))
    }

    /// Lets up to `count` of the oldest go, as if so many more had come; the answer is how many went.
    pub fn make_room(&self, count: usize) -> usize {
        let mut book = self.book();
        (0..count).take_while(|_| book.displace_one()).count()
    }

    /// How many seats are taken.
    pub fn len(&self) -> usize {
        self.book().count
    }

    /// Whether no seat is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn seat(self: &Arc<Self>, source: Source) -> Seat {
        let wanted = CancellationToken::new();
        let mut book = self.book();
        let ticket = book.next;
        book.next += 1;
        book.insert(source, ticket, wanted.clone());
        drop(book);
        Seat { lobby: Arc::clone(self), source, ticket, wanted }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits for `wait`, unless the seat is wanted for somebody else.
    pub async fn during<T>(&self, wait: impl Future<Output = T>) -> Result<T, Displaced> {
        tokio::select! {
            biased;
            () = self.wanted() => Err(Displaced),
            done = wait => Ok(done),
        }
    }

    /// Waits until the seat is wanted for somebody else.
    pub async fn wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// Counts from now on for the source that a load balancer has named; it is as old as it was.
    pub fn moves_to(&mut self, source: IpAddr) {
        let source = Source::of(source);
        let mut book = self.lobby.book();
        if let Some(wanted) = book.remove(self.source, self.ticket) {
            book.insert(source, self.ticket, wanted);
        }
        drop(book);
        self.source = source;
    }

    /// Counts no more: the client is let in.
    pub fn give_back(&self) {
        self.lobby.book().remove(self.source, self.ticket);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whose connections are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    /// An IPv4 address, or the /64 of an IPv6 one: what one household or machine has at least (RFC 6177).
    Network(IpAddr),
    /// A load balancer before its header.
    Balancer(IpAddr),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

/// Each source's seats by their tickets, which grow: the first one is the oldest. No source is without a seat.
struct Book {
    seats: HashMap<Source, BTreeMap<u64, CancellationToken>>,
    count: usize,
    next: u64,
    of_one: usize,
    in_all: usize,
}

impl Book {
    fn new(settings: &GuardSettings) -> Self {
        Self {
            seats: HashMap::new(),
            count: 0,
            next: 0,
            of_one: settings.waiting_per_source,
            in_all: settings.waiting,
        }
    }

    fn insert(&mut self, source: Source, ticket: u64, wanted: CancellationToken) {
        self.seats.entry(source).or_default().insert(ticket, wanted);
        self.count += 1;
        self.hold_to_limits(source);
    }

    fn remove(&mut self, source: Source, ticket: u64) -> Option<CancellationToken> {
        let seats = self.seats.get_mut(&source)?;
        let wanted = seats.remove(&ticket)?;
        if seats.is_empty() {
            self.seats.remove(&source);
        }
        self.count -= 1;
        Some(wanted)
    }

    fn hold_to_limits(&mut self, source: Source) {
        let taken = |book: &Self| book.seats.get(&source).map_or(0, BTreeMap::len);
        while matches!(source, Source::Network(_)) && taken(self) > self.of_one {
            self.displace_oldest_of(source);
        }
        while self.count > self.in_all && self.displace_one() {}
    }

    /// The oldest of the source that holds most. Looks at each source, of which there are no more than seats.
    fn displace_one(&mut self) -> bool {
        let most = self.seats.iter().max_by_key(|(_, seats)| {
            (seats.len(), Reverse(seats.first_key_value().map(|(ticket, _)| *ticket)))
        });
        most.map(|(source, _)| *source).is_some_and(|source| self.displace_oldest_of(source))
    }

    fn displace_oldest_of(&mut self, source: Source) -> bool {
        let oldest = self.seats.get(&source).and_then(BTreeMap::first_key_value);
        let Some(ticket) = oldest.map(|(ticket, _)| *ticket) else { return false };
        self.remove(source, ticket).inspect(CancellationToken::cancel).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lobby(of_one: usize, in_all: usize) -> Arc<Lobby> {
        Lobby::new(&settings(of_one, in_all))
    }

    fn settings(of_one: usize, in_all: usize) -> GuardSettings {
        let mut settings = GuardSettings::default();
        (settings.waiting_per_source, settings.waiting) = (of_one, in_all);
        settings
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Which of them must go, by their place.
    fn gone(seats: &[Seat]) -> Vec<usize> {
        let wanted = seats.iter().enumerate().filter(|(_, seat)| seat.wanted.is_cancelled());
        wanted.map(|(place, _)| place).collect()
    }

    #[test]
    fn a_source_loses_its_own_oldest() {
        let lobby = lobby(2, 100);
        let from = ["10.0.0.1", "10.0.0.2", "10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"];
        let seats: Vec<Seat> = from.iter().map(|source| lobby.enter(ip(source))).collect();
        assert_eq!((gone(&seats), lobby.len()), (vec![0, 2], 3));
        drop(seats);
        assert!(lobby.is_empty() && lobby.book().seats.is_empty());
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let lobby = lobby(2, 100);
        let from = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8::3"];
        let seats: Vec<Seat> = from.iter().map(|source| lobby.enter(ip(source))).collect();
        assert_eq!(gone(&seats), [0]);
    }

    #[test]
    fn in_all_the_largest_source_pays() {
        let lobby = lobby(10, 4);
        let from =
            ["10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
        let seats: Vec<Seat> = from.iter().map(|source| lobby.enter(ip(source))).collect();
        // Of 10.0.0.2 until it has one; then all have one, and the oldest of all goes.
        assert_eq!((gone(&seats), lobby.len()), (vec![0, 1, 2], 4));
    }

    #[test]
    fn a_seat_that_is_given_back_is_nobodys_to_take() {
        let lobby = lobby(1, 1);
        let (inside, waiting) = (lobby.enter(ip("10.0.0.1")), lobby.enter(ip("10.0.0.2")));
        assert!(inside.wanted.is_cancelled());
        waiting.give_back();
        let next = lobby.enter(ip("10.0.0.2"));
        drop((inside, waiting));
        assert_eq!((next.wanted.is_cancelled(), lobby.len()), (false, 1));
    }

    #[test]
    fn a_load_balancer_has_no_limit_of_its_own_but_its_clients_have() {
        let lobby = lobby(2, 5);
        let mut seats: Vec<Seat> = (0..5).map(|_| lobby.enter_balancer(ip("10.0.0.9"))).collect();
        assert!(gone(&seats).is_empty());
        for seat in &mut seats[1..4] {
            seat.moves_to(ip("192.0.2.1"));
        }
        assert_eq!((gone(&seats), lobby.len()), (vec![1], 4));
        // One that is gone takes no seat from anybody.
        seats[1].moves_to(ip("192.0.2.2"));
        assert_eq!((gone(&seats), lobby.len()), (vec![1], 4));
        let newest = (lobby.enter(ip("192.0.2.7")), lobby.enter(ip("192.0.2.8")));
        assert_eq!((gone(&seats), lobby.len()), (vec![0, 1], 5));
        drop(newest);
    }

    #[test]
    fn other_limits_count_at_once_and_room_can_be_made() {
        let lobby = lobby(10, 10);
        let seats: Vec<Seat> = (0..6).map(|_| lobby.enter(ip("10.0.0.1"))).collect();
        lobby.set_guard(&settings(4, 10));
        assert_eq!(gone(&seats), [0, 1]);
        assert_eq!((lobby.make_room(3), gone(&seats)), (3, vec![0, 1, 2, 3, 4]));
        assert_eq!((lobby.make_room(3), lobby.make_room(3)), (1, 0));
    }

    #[tokio::test]
    async fn who_must_go_hears_it_while_waiting() {
        let lobby = lobby(1, 1);
        let seat = lobby.enter(ip("10.0.0.1"));
        assert_eq!(seat.during(async { 7 }).await.ok(), Some(7));
        let other = async { lobby.enter(ip("10.0.0.2")) };
        let (waited, _other) = tokio::join!(seat.during(std::future::pending::<()>()), other);
        assert!(waited.is_err());
    }
}
