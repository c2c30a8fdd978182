//! How a merge ends: a layer lies on another one than before, in its header and in the graph.

use std::{cell::RefCell, rc::Rc};

use strata_format::backing::Backing;
use strata_graph::{Edit, EditError, GuestDisk, Hold, Node, check_leads_to};
use strata_storage::{
    Files,
    error::{Error, Result},
};

use super::layers;

/// What a layer will lie on.
pub(crate) struct NewBase {
    pub node: Rc<Node>,
    /// How the header will name it.
    pub backing: Backing,
}

/// The change, as the command that started the job has resolved it.
pub(crate) struct Relink {
    /// The layer whose header changes.
    upper: Rc<Node>,
    /// `None` if it shall stand alone.
    base: Option<NewBase>,
    /// Where the names in headers lead.
    files: Files,
    /// Keeps others from the layer, the base and those between them.
    hold: Hold,
    /// What the header has named before it was changed.
    before: RefCell<Option<Option<Backing>>>,
}

impl Relink {
    pub fn new(upper: Rc<Node>, base: Option<NewBase>, files: Files, hold: Hold) -> Self {
        Self {
            upper,
            base,
            files,
            hold,
            before: RefCell::default(),
        }
    }

    /// The layer whose header changes.
    pub fn upper(&self) -> &Rc<Node> {
        &self.upper
    }

    /// What it will lie on; `None` if it shall stand alone.
    pub fn base(&self) -> Option<&Rc<Node>> {
        self.base.as_ref().map(|base| &base.node)
    }

    /// Keeps others from the layer, the base and those between them.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Whether the layer lies on the base already, or on nothing.
    pub fn is_done(&self) -> bool {
        match (self.upper.backing(), self.base()) {
            (Some(below), Some(base)) => Rc::ptr_eq(&below, base),
            (below, _) => below.is_none(),
        }
    }

    /// Refuses a base whose name in the header would not lead to it when `disk` is opened again.
    ///
    /// # Errors
    /// One line on why not.
    pub fn check_base(&self, disk: &GuestDisk) -> Result<()> {
        let Some(NewBase { node, backing }) = &self.base else {
            return Ok(());
        };
        let upper = (self.upper.path(), self.upper.format());
        check_leads_to(
            &self.files,
            upper,
            Some(backing),
            node,
            disk.image_options(),
        )
    }

    /// Refuses what the graph of `disk` cannot follow, and a base as [`Relink::check_base`] does.
    ///
    /// # Errors
    /// One line on why not.
    pub fn check(&self, disk: &Rc<GuestDisk>) -> Result<()> {
        self.check_base(disk)?;
        self.edit(disk).check().map_err(|error| self.refused(error))
    }

    /// Has the header name the base.
    ///
    /// # Errors
    /// As [`Image::write_backing_name`](strata_graph::Image::write_backing_name).
    pub async fn write_header(&self) -> Result<()> {
        let before = self.upper.image().backing_name();
        let backing = self.base.as_ref().map(|base| base.backing.clone());
        self.upper.image().write_backing_name(backing).await?;
        self.before.replace(Some(before));
        Ok(())
    }

    /// Has it name again what it did before, if it has been changed.
    ///
    /// # Errors
    /// As [`Relink::write_header`].
    pub async fn restore_header(&self) -> Result<()> {
        let before = self.before.take();
        match before {
            Some(before) => self.upper.image().write_backing_name(before).await,
            None => Ok(()),
        }
    }

    /// Has the graph of `disk` follow, and closes the layers between, which were `merged` or
    /// `committed`.
    ///
    /// # Errors
    /// One line on why it cannot; it is as it was then.
    pub async fn follow(&self, disk: &Rc<GuestDisk>, how: &str) -> Result<()> {
        let gone = self.edit(disk).drain().await.apply();
        let gone = gone.map_err(|error| self.refused(error))?;
        layers::close(gone, how).await;
        Ok(())
    }

    /// Why the graph cannot follow.
    pub fn refused(&self, error: EditError) -> Error {
        Error::Image {
            file: self.upper.path().to_owned(),
            why: error.to_string(),
        }
    }

    fn edit(&self, disk: &Rc<GuestDisk>) -> Edit<'_> {
        Edit::default().backing(disk, &self.upper, self.base(), &self.hold)
    }
}
