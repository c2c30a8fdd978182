//! Chains of qcow2 images whose content is known: written here, byte by byte, so that neither side
//! decides about the layout and neither is trusted when a result is verified.

use crate::model::{BLOCK, CLUSTER, Content, Model, Random};
use crate::side::sync;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use strata_tests::error::{Context, Outcome, ensure};

#[cfg(test)]
mod tests;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ALL_ZERO: u64 = 1;
const HOST_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of an L2 table, and of the L1 table, for they take a cluster each here.
const ENTRIES: u64 = CLUSTER / 8;

/// What a chain is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the disk, a multiple of a cluster.
    pub size: u64,
    /// Clusters that each layer holds, the base first.
    pub layers: Vec<u64>,
    /// Clusters that lie together, in the disk and in the file; such runs lie in random order.
    pub run: u64,
}

/// A chain on disk.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What it was made of.
    pub shape: Shape,
    /// The files, the base first.
    pub files: Vec<PathBuf>,
    /// What it shows.
    pub model: Model,
}

impl Chain {
    /// Writes the files into a directory, which is made.
    pub fn build(directory: &Path, shape: &Shape) -> Outcome<Chain> {
        fs::create_dir_all(directory).context(directory.display())?;
        let mut random = Random::new(shape.run + shape.layers.len() as u64);
        let mut chain = Chain {
            shape: shape.clone(),
            files: Vec::new(),
            model: Model::new(shape.size),
        };
        for (number, &clusters) in (1..).zip(&shape.layers) {
            let mut runs: Vec<u64> = (0..shape.size / CLUSTER / shape.run).collect();
            random.shuffle(&mut runs);
            runs.truncate(usize::try_from(clusters / shape.run).context("clusters")?);
            let clusters = runs
                .iter()
                .flat_map(|run| (0..shape.run).map(move |at| run * shape.run + at));
            let clusters: Vec<u64> = clusters.collect();
            let below = chain.files.last().map(PathBuf::as_path);
            let path = directory.join(format!("layer{number}.qcow2"));
            write_layer(&path, shape.size, below, &clusters, Content::Layer(number))?;
            for cluster in clusters {
                chain.model.write_cluster(cluster, Content::Layer(number));
            }
            chain.files.push(path);
        }
        Ok(chain)
    }

    /// The topmost file.
    pub fn top(&self) -> &Path {
        self.files.last().map_or(Path::new(""), PathBuf::as_path)
    }

    /// A copy of the topmost file beside it, durable, which shows the same.
    pub fn copy_of_top(&self, name: &str) -> Outcome<PathBuf> {
        let copy = self.top().with_file_name(name);
        fs::copy(self.top(), &copy).context(copy.display())?;
        sync(&copy)?;
        Ok(copy)
    }
}

/// Writes an image that holds `clusters`, in this order in the file.
pub fn write_layer(
    path: &Path,
    size: u64,
    below: Option<&Path>,
    clusters: &[u64],
    content: Content,
) -> Outcome<()> {
    let tables = size.div_ceil(CLUSTER * ENTRIES);
    ensure(tables <= ENTRIES, || "the L1 table is too long".to_owned())?;
    // Header, L1 table, refcount table, one refcount block for 2 GiB of file; then L2 tables, data.
    let count = 3 + tables + clusters.len() as u64;
    let blocks = (count + count.div_ceil(CLUSTER / 2)).div_ceil(CLUSTER / 2);
    let first_table = 3 + blocks;
    let first_data = first_table + tables;
    let file = File::create(path).context(path.display())?;
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    let mut put = |bytes: &[u8]| {
        let mut cluster = bytes.to_vec();
        cluster.resize(CLUSTER as usize, 0);
        out.write_all(&cluster).context(path.display())
    };
    put(&header(size, tables, below)?)?;
    let entries = |from: u64, count: u64, flags: u64| -> Vec<u8> {
        let offsets = (from..from + count).map(|cluster| (cluster * CLUSTER) | flags);
        offsets.flat_map(u64::to_be_bytes).collect()
    };
    put(&entries(first_table, tables, COPIED))?;
    put(&entries(3, blocks, 0))?;
    let mut used = first_data + clusters.len() as u64;
    for _ in 0..blocks {
        let here = used.min(CLUSTER / 2);
        used -= here;
        put(&[0, 1].repeat(usize::try_from(here).context("refcounts")?))?;
    }
    let mut tables = vec![0u64; usize::try_from(tables * ENTRIES).context("L2 tables")?];
    for (place, &cluster) in (first_data..).zip(clusters) {
        tables[usize::try_from(cluster).context("cluster")?] = (place * CLUSTER) | COPIED;
    }
    let tables: Vec<u8> = tables.into_iter().flat_map(u64::to_be_bytes).collect();
    tables.chunks(CLUSTER as usize).try_for_each(&mut put)?;
    let mut buffer = vec![0; CLUSTER as usize];
    for cluster in clusters {
        let first = cluster * CLUSTER / BLOCK as u64;
        for (block, bytes) in (first..).zip(buffer.chunks_mut(BLOCK)) {
            content.fill(block, bytes);
        }
        put(&buffer)?;
    }
    out.flush().context(path.display())?;
    drop(out);
    file.sync_all().context(path.display())
}

fn header(size: u64, tables: u64, below: Option<&Path>) -> Outcome<Vec<u8>> {
    const NAME_AT: usize = 512;
    let name = match below {
        Some(path) => path.file_name().and_then(|name| name.to_str()),
        None => Some(""),
    };
    let name = name.context("the backing file's name is not UTF-8")?;
    let mut bytes = vec![0; NAME_AT];
    let mut put32 = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put32(0, 0x5146_49fb);
    put32(4, 3);
    put32(12, if name.is_empty() { 0 } else { NAME_AT as u32 });
    put32(16, u32::try_from(name.len()).context("name")?);
    put32(20, CLUSTER.trailing_zeros());
    put32(24, u32::try_from(size >> 32).context("size")?);
    put32(28, (size & 0xffff_ffff) as u32);
    put32(36, u32::try_from(tables).context("tables")?);
    put32(44, CLUSTER as u32);
    put32(52, 2 * CLUSTER as u32);
    put32(56, 1);
    // Refcounts of 16 bits, the length of the header, the format of the backing file.
    put32(96, 4);
    put32(100, 104);
    if !name.is_empty() {
        put32(104, 0xe279_2aca);
        put32(108, 5);
        bytes[112..117].copy_from_slice(b"qcow2");
    }
    bytes.extend_from_slice(name.as_bytes());
    Ok(bytes)
}

/// One layer, for reading.
struct Layer {
    file: File,
    /// The L2 entry of each cluster; 0 where there is no table.
    entries: Vec<u64>,
}

impl Layer {
    /// Opens a layer; also returns the name of the file below it.
    fn open(path: &Path) -> Outcome<(Layer, Option<PathBuf>)> {
        let file = File::open(path).context(path.display())?;
        let read = |offset: u64, length: usize| -> Outcome<Vec<u8>> {
            let mut bytes = vec![0; length];
            let context = || format!("{}: at {offset}", path.display());
            file.read_exact_at(&mut bytes, offset).context(context())?;
            Ok(bytes)
        };
        let words = |bytes: Vec<u8>| -> Vec<u64> {
            let words = bytes.chunks_exact(8);
            words
                .map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
                .collect()
        };
        let header = words(read(0, 104)?);
        ensure(header[0] >> 32 == 0x5146_49fb, || {
            format!("{}: not a qcow2 image", path.display())
        })?;
        ensure(header[2] & 0xffff_ffff == 16, || {
            format!("{}: other clusters than 64 KiB", path.display())
        })?;
        let name_length = usize::try_from(header[2] >> 32).context("length of a name")?;
        let below = match header[1] {
            0 => None,
            at => {
                let name = String::from_utf8(read(at, name_length)?).context(path.display())?;
                Some(path.with_file_name(name))
            }
        };
        let size = header[3];
        let tables = size.div_ceil(CLUSTER * ENTRIES);
        let top = words(read(header[5], usize::try_from(tables * 8).context("L1")?)?);
        let mut entries = Vec::new();
        for entry in top {
            match entry & HOST_OFFSET {
                0 => entries.resize(entries.len() + ENTRIES as usize, 0),
                at => entries.extend(words(read(at, CLUSTER as usize)?)),
            }
        }
        Ok((Layer { file, entries }, below))
    }
}

/// Compares every byte that a chain, from its topmost file down, shows with what it has to show.
/// Clusters must not be compressed.
pub fn verify(top: &Path, model: &Model) -> Outcome<()> {
    let mut layers = Vec::new();
    let mut next = Some(top.to_owned());
    while let Some(path) = next {
        let (layer, below) = Layer::open(&path)?;
        layers.push(layer);
        next = below;
    }
    let mut buffer = vec![0; CLUSTER as usize];
    for cluster in 0..model.size / CLUSTER {
        let index = usize::try_from(cluster).context("cluster")?;
        let holder = layers.iter().find(|layer| {
            layer
                .entries
                .get(index)
                .is_some_and(|&entry| entry & !COPIED != 0)
        });
        buffer.fill(0);
        if let Some(layer) = holder {
            let entry = layer.entries[index];
            ensure(entry & COMPRESSED == 0, || {
                "a compressed cluster".to_owned()
            })?;
            if entry & ALL_ZERO == 0 {
                read_up_to_end(&layer.file, &mut buffer, entry & HOST_OFFSET)
                    .context(format!("{}: cluster {cluster}", top.display()))?;
            }
        }
        check_blocks(top, model, cluster * CLUSTER / BLOCK as u64, &buffer)?;
    }
    Ok(())
}

/// Compares every byte of a plain file.
pub fn verify_raw(path: &Path, model: &Model) -> Outcome<()> {
    let file = File::open(path).context(path.display())?;
    let length = file.metadata().context(path.display())?.len();
    ensure(length == model.size, || {
        format!("{}: {length} bytes, not {}", path.display(), model.size)
    })?;
    let mut buffer = vec![0; CLUSTER as usize];
    for cluster in 0..model.size / CLUSTER {
        file.read_exact_at(&mut buffer, cluster * CLUSTER)
            .context(path.display())?;
        check_blocks(path, model, cluster * CLUSTER / BLOCK as u64, &buffer)?;
    }
    Ok(())
}

/// A file may end within its last cluster.
fn read_up_to_end(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64)? {
            0 => break,
            more => done += more,
        }
    }
    Ok(())
}

fn check_blocks(path: &Path, model: &Model, first: u64, bytes: &[u8]) -> Outcome<()> {
    let mut expected = [0; BLOCK];
    for (block, found) in (first..).zip(bytes.chunks(BLOCK)) {
        let content = model.content(block);
        content.fill(block, &mut expected);
        ensure(found == expected, || {
            let offset = block * BLOCK as u64;
            format!(
                "{}: wrong bytes at {offset}, not {content:?}",
                path.display()
            )
        })?;
    }
    Ok(())
}
