//! Copies that the host makes.

use strata_storage::{Storage, error::IoResult};

use super::{Mode, Node};

impl Node {
    /// Has the host copy `len` bytes from `from` on in `source` to `offset` of the disk; whether it
    /// could. Where it could not, what the range holds is undefined. It can copy to raw images
    /// only: others have to find a place first.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub async fn copy_from(
        &self,
        offset: u64,
        source: &Storage,
        from: u64,
        len: u64,
    ) -> IoResult<bool> {
        let _changing = self.changing()?;
        let _entry = self.enter(offset, len, Mode::Shared).await?;
        let _recorded = self.recorded(offset, len).await?;
        self.image.copy_from(offset, source, from, len).await
    }
}
