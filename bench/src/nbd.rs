//! A client of an NBD server that keeps a load on it and notes how long each request took.

use crate::model::{BLOCK, LOAD, Random};
use std::collections::HashSet;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use strata_tests::error::{Context, Outcome, ensure};

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// What is asked of the server: requests of 4 KiB at random places.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests in flight.
    pub depth: usize,
    /// How many of a hundred are writes.
    pub writes: u64,
}

/// One request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it ended, in seconds since the load's clock began.
    pub at: f64,
    /// How long it took, in microseconds.
    pub micros: f64,
    /// A write, not a read.
    pub is_write: bool,
}

/// A connection, past the handshake.
struct Connection {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    size: u64,
}

impl Connection {
    fn open(path: &Path, export: &str) -> Outcome<Connection> {
        let mut writer = UnixStream::connect(path).context(path.display())?;
        let mut reader = BufReader::with_capacity(1 << 18, writer.try_clone().context("NBD")?);
        let greeting: [u8; 18] = take(&mut reader)?;
        ensure(&greeting[..16] == b"NBDMAGICIHAVEOPT", || {
            "not an NBD server".to_owned()
        })?;
        // Fixed newstyle, no zeros at the end; then NBD_OPT_GO without requests for information.
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(7u32.to_be_bytes());
        let length = u32::try_from(export.len()).context("name")?;
        hello.extend((length + 6).to_be_bytes());
        hello.extend(length.to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend([0, 0]);
        writer.write_all(&hello).context("NBD")?;
        let mut size = 0;
        loop {
            let head: [u8; 20] = take(&mut reader)?;
            let kind = be32(&head[12..]);
            let mut data = vec![0; be32(&head[16..]) as usize];
            reader.read_exact(&mut data).context("NBD")?;
            match kind {
                1 => break,
                3 if data.len() >= 10 && data[..2] == [0, 0] => size = be64(&data[2..]),
                3 => {}
                other => return Err(other).context("the NBD server refuses the export")?,
            }
        }
        Ok(Connection {
            reader,
            writer,
            size,
        })
    }

    fn request(&mut self, kind: u16, handle: u64, offset: u64, data: &[u8]) -> Outcome<()> {
        let mut bytes = Vec::with_capacity(28 + data.len());
        bytes.extend(REQUEST.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(handle.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend((BLOCK as u32).to_be_bytes());
        bytes.extend(data);
        self.writer.write_all(&bytes).context("NBD")
    }
}

fn take<const N: usize>(reader: &mut impl Read) -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).context("NBD")?;
    Ok(bytes)
}

fn be32(bytes: &[u8]) -> u32 {
    let word = bytes.iter().take(4);
    word.fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from(be32(bytes)) << 32 | u64::from(be32(&bytes[4..]))
}

/// Reads one block.
pub fn read_once(path: &Path) -> Outcome<()> {
    let mut connection = Connection::open(path, "d")?;
    connection.request(0, 0, 0, &[])?;
    let head: [u8; 16] = take(&mut connection.reader)?;
    ensure(be32(&head[4..]) == 0, || "a read failed".to_owned())?;
    take::<BLOCK>(&mut connection.reader).map(drop)
}

/// Loads the export `d` until told to stop. Returns all requests, and which blocks were written.
pub fn load(
    path: &Path,
    load: Load,
    clock: Instant,
    stop: &AtomicBool,
) -> Outcome<(Vec<Sample>, HashSet<u64>)> {
    let mut connection = Connection::open(path, "d")?;
    let mut random = Random::new(load.depth as u64);
    let (mut samples, mut written) = (Vec::new(), HashSet::new());
    let mut in_flight = vec![(clock, false); load.depth];
    let mut data = vec![0; BLOCK];
    let blocks = connection.size / BLOCK as u64;
    let mut start = |connection: &mut Connection, slot: usize| -> Outcome<(Instant, bool)> {
        let block = random.below(blocks);
        let is_write = random.below(100) < load.writes;
        let begin = Instant::now();
        if is_write {
            LOAD.fill(block, &mut data);
            written.insert(block);
        }
        let bytes = if is_write { &data[..] } else { &[] };
        let offset = block * BLOCK as u64;
        connection.request(u16::from(is_write), slot as u64, offset, bytes)?;
        Ok((begin, is_write))
    };
    for (slot, request) in in_flight.iter_mut().enumerate() {
        *request = start(&mut connection, slot)?;
    }
    let mut open = load.depth;
    while open > 0 {
        let head: [u8; 16] = take(&mut connection.reader)?;
        let (magic, error) = (be32(&head), be32(&head[4..]));
        ensure((magic, error) == (REPLY, 0), || {
            format!("a request failed: error {error}")
        })?;
        let slot = usize::try_from(be64(&head[8..])).context("handle")?;
        let request = in_flight.get_mut(slot).context("an unknown handle")?;
        let (begin, is_write) = *request;
        if !is_write {
            take::<BLOCK>(&mut connection.reader)?;
        }
        samples.push(Sample {
            at: clock.elapsed().as_secs_f64(),
            micros: begin.elapsed().as_secs_f64() * 1e6,
            is_write,
        });
        if stop.load(Ordering::Relaxed) {
            open -= 1;
        } else {
            *request = start(&mut connection, slot)?;
        }
    }
    Ok((samples, written))
}
