//! What the disk and the memory are measured with: `cargo test --test spool -- --ignored --nocapture`.

use super::*;

/// The bar: within a factor of two of what the disk's syncs allow. Not run by itself: it measures the disk.
#[ignore = "a measurement"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure_acceptance() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bytes = message(4_000);
    let (mut bares, mut spools) = (Vec::new(), Vec::new());
    for round in 0..9 {
        let bare = folder.path().join(format!("bare{round}"));
        fs::create_dir(&bare).unwrap();
        let begun = Instant::now();
        let writers = (0..10).map(|task| {
            let (bare, bytes) = (bare.clone(), bytes.clone());
            std::thread::spawn(move || {
                for number in 0..50 {
                    let path = bare.join(format!("{task}-{number}"));
                    fs::write(&path, &bytes).unwrap();
                    fs::File::open(&path).unwrap().sync_all().unwrap();
                    fs::File::open(&bare).unwrap().sync_all().unwrap();
                }
            })
        });
        writers.collect::<Vec<_>>().into_iter().for_each(|writer| writer.join().unwrap());
        let bare = begun.elapsed();
        let spool = open(&folder.path().join(format!("spool{round}")));
        let _lock = spool.lock().unwrap().unwrap();
        let begun = Instant::now();
        let tasks = (0..10).map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    put(&spool, 4_000).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        spools.push(begun.elapsed());
        bares.push(bare);
    }
    bares.sort();
    spools.sort();
    println!("500 messages: bare syncs {bares:?}, spooled {spools:?}");
    // The median, because others use the disk too; where syncs cost next to nothing, this would measure the processor.
    assert!(spools[4] < bares[4].max(Duration::from_millis(200)) * 2);
}

/// The bar: twenty messages of 50 MB at once take at most 32 MiB.
#[ignore = "a measurement, and a gigabyte"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure_memory() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spool = open(folder.path());
    spool.set(&settings(2 << 30));
    put(&spool, 100_000).await;
    let memory = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = memory();
    let begun = Instant::now();
    let tasks = (0..20).map(|_| {
        let spool = spool.clone();
        tokio::spawn(async move {
            let mut incoming = spool.receive(source(), envelope()).await.unwrap();
            incoming.write(HEADER.as_bytes()).await.unwrap();
            let piece = vec![b'x'; 50_000];
            for _ in 0..1_000 {
                incoming.write(&piece).await.unwrap();
            }
            let entry = incoming.commit(Vec::new()).await.unwrap();
            let mut content = spool.content(&entry).await.unwrap();
            while !content.piece().await.unwrap().is_empty() {}
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let grown = memory() - before;
    println!("20 times 50 MB in {:?}: {grown} KiB more", begun.elapsed());
    assert!(grown < 32 * 1024);
}
