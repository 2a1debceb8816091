//! Each deed in each place, before a server that answers all octets with the same.

use super::*;

/// A server that answers each octet with the same one; a network before it with this fault, and a client.
async fn client(fault: Option<Fault>) -> (Network, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let network = Network::to(listener.local_addr().unwrap()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    fault.into_iter().for_each(|fault| network.arm(fault));
    let client = TcpStream::connect(network.address()).await.unwrap();
    (network, client)
}

/// All that comes back of `abcdef`, and how it ends.
async fn told(place: Place, deed: Deed) -> (Vec<u8>, io::Result<()>) {
    let (network, mut client) = client(Some(Fault { place, deed })).await;
    let _ = client.write_all(b"abcdef").await;
    let _ = client.shutdown().await;
    let mut heard = Vec::new();
    let end = loop {
        match client.read_buf(&mut heard).await {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    assert!(network.last().unwrap().fired);
    (heard, end)
}

#[tokio::test]
async fn what_has_no_fault_passes_and_is_recorded() {
    let (network, mut client) = client(None).await;
    let mut answer = [0; 3];
    for _ in 0..2 {
        client.write_all(b"abc").await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"abc");
    }
    let turn = |direction, from, to| Turn { direction, from, to };
    assert_eq!(
        network.last().unwrap().turns,
        [
            turn(Direction::Up, 0, 3),
            turn(Direction::Down, 0, 3),
            turn(Direction::Up, 3, 6),
            turn(Direction::Down, 3, 6),
        ]
    );
    assert_eq!(network.live(), 1);
    network.cut_all();
    assert_eq!(client.read(&mut answer).await.unwrap(), 0);
}

#[tokio::test]
async fn each_deed_is_done_at_its_octet() {
    let (up, down) = (Place::Octet(Direction::Up, 2), Place::Octet(Direction::Down, 4));
    let wait = Duration::from_millis(10);
    for (place, deed, expected) in [
        (up, Deed::Cut, ""),
        (down, Deed::Cut, "abcd"),
        (up, Deed::HalfClose, "ab"),
        (down, Deed::HalfClose, "abcd"),
        (up, Deed::Garbage(b"--".to_vec()), "ab--cdef"),
        (down, Deed::Repeat, "abcdefef"),
        (up, Deed::Delay(wait), "abcdef"),
        (down, Deed::Throttle(100), "abcdef"),
        (down, Deed::Swallow(wait), "abcd"),
        (Place::Connect, Deed::Cut, ""),
        (Place::Connect, Deed::HalfClose, ""),
        (Place::Connect, Deed::Swallow(wait), ""),
        (Place::Connect, Deed::Garbage(b"--".to_vec()), "--abcdef"),
        (Place::Connect, Deed::Throttle(100), "abcdef"),
    ] {
        let (heard, _) = told(place, deed.clone()).await;
        let heard = String::from_utf8(heard).unwrap();
        // What was cut upwards may have been answered in part.
        let cut_up = place == up && deed == Deed::Cut && "ab".starts_with(&heard);
        assert!(heard == expected || cut_up, "{place:?} {deed:?}: {heard:?}");
    }
    for place in [up, down, Place::Connect] {
        let (_, end) = told(place, Deed::Reset).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{place:?}");
    }
}
