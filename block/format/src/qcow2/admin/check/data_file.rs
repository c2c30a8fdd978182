//! Entries that point into an external data file: its clusters are not counted, and each can only
//! be where it is on the disk.

use super::Check;
use crate::qcow2::{
    layout::data_file,
    layout::{
        entry::{COMPRESSED, COPIED, OFFSET_MASK},
        geometry::GuestCluster,
    },
};

impl Check<'_> {
    /// Judges the entry of `cluster`; `false` if there is nothing more to see in it.
    pub(super) fn external_entry(&mut self, raw: u64, cluster: GuestCluster) -> bool {
        let g = self.image.geometry;
        if raw & COMPRESSED != 0 {
            let index = cluster.0 % g.l2_entries();
            self.report.corruption(format!(
                "ERROR compressed cluster {index} with data file, entry={raw:#x}"
            ));
            return false;
        }
        let offset = raw & OFFSET_MASK;
        if offset == 0 && raw & COPIED == 0 {
            return true;
        }
        let place = data_file::check_place(&g, g.host_cluster(offset), cluster);
        // One that is not aligned is reported as that.
        if let Err(why) = place
            && g.in_cluster(offset) == 0
        {
            let at = g.guest_offset(cluster);
            self.report
                .corruption(format!("ERROR guest offset {at:#x}: {why}"));
        }
        true
    }
}
