//! What a [`Node`](crate::Node) asks of its image for requests. Nothing here waits for other
//! requests or records anything: the node has seen to that.

use strata_exec::mem::SgList;
use strata_format::{
    below::Below,
    extent::{Extent, ExtentKind},
    qcow2::{Operation, Packed, Qcow2},
    under_way::UnderWay,
};
use strata_storage::{
    Storage,
    error::{IoError, IoResult},
};

use super::{Driver, Image};

impl Image {
    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        match &self.driver {
            // QEMU shows a last, partial sector to the guest as a whole one.
            Driver::Raw(file) => file.len().next_multiple_of(512),
            Driver::Qcow2(image) => image.virtual_size(),
            Driver::Qed(image) => image.virtual_size(),
        }
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        match &self.driver {
            Driver::Raw(_) => 512,
            Driver::Qcow2(image) => image.cluster_size(),
            Driver::Qed(image) => image.cluster_size(),
        }
    }

    pub(crate) fn granularity(&self) -> u64 {
        match &self.driver {
            Driver::Qcow2(image) => image.subcluster_size(),
            Driver::Raw(_) | Driver::Qed(_) => self.cluster_size(),
        }
    }

    pub(crate) fn has_zero_clusters(&self) -> bool {
        match &self.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.version() > 2,
            Driver::Qed(_) => true,
        }
    }

    /// What tasks hold of the image, or wait for.
    pub fn under_way(&self) -> UnderWay {
        match &self.driver {
            Driver::Raw(_) => UnderWay::default(),
            Driver::Qcow2(image) => image.under_way(),
            Driver::Qed(image) => image.under_way(),
        }
    }

    /// Keeps clusters that are looked up from now on where they are, if they could go.
    pub(crate) fn pin(&self) -> Option<Operation> {
        self.as_qcow2().map(Qcow2::pin)
    }

    /// What the image holds; the range starts on the disk. With `holes_are_data` the host is not
    /// asked for holes in raw files.
    pub(crate) async fn extent(
        &self,
        offset: u64,
        len: u64,
        holes_are_data: bool,
    ) -> IoResult<Extent> {
        match &self.driver {
            Driver::Raw(file) => {
                let (mut len, mut kind) = (
                    len,
                    ExtentKind::Data {
                        host_offset: offset,
                    },
                );
                if !holes_are_data {
                    let part = file.extent(offset, len).await;
                    len = part.len;
                    if !part.data {
                        kind = ExtentKind::Zero;
                    }
                }
                Ok(Extent { len, kind })
            }
            Driver::Qcow2(image) => image.extent(offset, len).await,
            Driver::Qed(image) => image.extent(offset, len).await,
        }
    }

    /// Reads from one extent.
    pub(crate) async fn read_extent(
        &self,
        kind: ExtentKind,
        offset: u64,
        data: SgList,
    ) -> IoResult<()> {
        match (&self.driver, kind) {
            (_, ExtentKind::Data { host_offset }) => {
                self.data_storage().read(host_offset, data).await
            }
            (Driver::Qcow2(image), ExtentKind::Compressed) => {
                Box::pin(image.read_compressed(offset, data)).await
            }
            _ => {
                data.fill(0, data.len(), 0);
                Ok(())
            }
        }
    }

    pub(crate) async fn write(&self, offset: u64, data: SgList, below: &dyn Below) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(file) => file.write(offset, data).await,
            Driver::Qcow2(image) => image.write(offset, data, below).await,
            Driver::Qed(image) => image.write(offset, data, below).await,
        }
    }

    pub(crate) async fn write_packed(&self, offset: u64, packed: Packed) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(_) | Driver::Qed(_) => Err(IoError::Unsupported {
                file: self.path.clone(),
                what: format!("compression in {} images", self.format()),
            }),
            Driver::Qcow2(image) => image.write_packed(offset, packed).await,
        }
    }

    pub(crate) async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        below: &dyn Below,
    ) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(file) => file.write_zeroes(offset, len, unmap).await,
            Driver::Qcow2(image) => image.write_zeroes(offset, len, unmap, below).await,
            Driver::Qed(image) => image.write_zeroes(offset, len, unmap, below).await,
        }
    }

    pub(crate) async fn discard(&self, offset: u64, len: u64, below: &dyn Below) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(file) => file.punch_hole(offset, len).await,
            Driver::Qcow2(image) => image.discard(offset, len, below).await,
            Driver::Qed(image) => image.discard(offset, len).await,
        }
    }

    pub(crate) async fn write_if_unallocated(
        &self,
        offset: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(_) => Ok(()),
            Driver::Qcow2(image) => image.write_if_unallocated(offset, data, below).await,
            Driver::Qed(image) => image.write_if_unallocated(offset, data, below).await,
        }
    }

    pub(crate) async fn zero_if_unallocated(
        &self,
        offset: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(_) => Ok(()),
            Driver::Qcow2(image) => image.zero_if_unallocated(offset, len, below).await,
            Driver::Qed(image) => image.zero_if_unallocated(offset, len, below).await,
        }
    }

    pub(crate) async fn copy_from(
        &self,
        offset: u64,
        source: &Storage,
        from: u64,
        len: u64,
    ) -> IoResult<bool> {
        match &self.driver {
            Driver::Raw(file) => file.copy_from(offset, source, from, len).await,
            Driver::Qcow2(_) | Driver::Qed(_) => Ok(false),
        }
    }

    pub(crate) async fn flush(&self) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(file) => file.flush().await,
            Driver::Qcow2(image) => image.flush().await,
            Driver::Qed(image) => image.flush().await,
        }
    }
}
