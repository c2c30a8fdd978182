//! Packing and unpacking single clusters (specification, "Compressed clusters").

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use strata_exec::mem::to_usize;

/// log2 of the window of deflate streams: QEMU reads none that go further back.
const WINDOW_BITS: u8 = 12;

/// How the clusters of an image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate streams (RFC 1951), without any header.
    #[default]
    Deflate,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

impl Compression {
    /// The stream for a cluster; `None` if it would not be shorter.
    pub fn pack(self, cluster: &[u8]) -> Option<Vec<u8>> {
        let mut packed = vec![0; cluster.len() - 1];
        let len = match self {
            Self::Deflate => deflate(cluster, &mut packed),
            Self::Zstd => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                zstd::zstd_safe::compress(&mut packed[..], cluster, level).ok()
            }
        }?;
        packed.truncate(len);
        Some(packed)
    }

    /// The cluster of `len` bytes that `packed` starts with; what lies behind the stream is of
    /// other clusters.
    ///
    /// # Errors
    /// What is wrong with the stream.
    pub(crate) fn unpack(self, packed: &[u8], len: usize) -> Result<Vec<u8>, String> {
        let mut cluster = vec![0; len];
        let unpacked = match self {
            Self::Deflate => inflate(packed, &mut cluster)?,
            Self::Zstd => unpack_frame(packed, &mut cluster)?,
        };
        if unpacked < len {
            return Err(format!(
                "the stream holds {unpacked} bytes of a cluster of {len}"
            ));
        }
        Ok(cluster)
    }
}

fn deflate(cluster: &[u8], packed: &mut [u8]) -> Option<usize> {
    let level = flate2::Compression::default();
    let mut stream = Compress::new_with_window_bits(level, false, WINDOW_BITS);
    let status = stream
        .compress(cluster, packed, FlushCompress::Finish)
        .ok()?;
    // At most the cluster's length.
    (status == Status::StreamEnd).then_some(to_usize(stream.total_out()))
}

fn inflate(packed: &[u8], cluster: &mut [u8]) -> Result<usize, String> {
    let mut stream = Decompress::new(false);
    stream
        .decompress(packed, cluster, FlushDecompress::Finish)
        .map_err(|error| error.to_string())?;
    // At most the cluster's length.
    Ok(to_usize(stream.total_out()))
}

/// The frame is unpacked at once, straight into the cluster: whatever window it asks for, none is
/// allocated.
fn unpack_frame(packed: &[u8], cluster: &mut [u8]) -> Result<usize, String> {
    let message = |code| zstd::zstd_safe::get_error_name(code).to_owned();
    let len = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(message)?;
    zstd::zstd_safe::decompress(cluster, &packed[..len]).map_err(message)
}

#[cfg(test)]
mod tests;
