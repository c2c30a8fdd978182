//! `x-strata-query-chain`: what the layers of disks hold.

use std::rc::Rc;

use strata_graph::Node;

use super::{Engine, refused};
use crate::{
    api::{CmdError, QueryChain, Reply},
    chain::{ChainInfo, PARTS},
};

/// A chain that changes as often while it is looked at is not going to stand still.
const TRIES: usize = 3;

impl Engine {
    /// Looks at the chain of one disk, or of each.
    pub(super) async fn query_chain(&self, cmd: QueryChain) -> Result<Reply, CmdError> {
        let parts = cmd.parts.unwrap_or(PARTS);
        let names: Vec<_> = match cmd.device {
            Some(name) => vec![name],
            None => {
                let disks = self.disks.borrow();
                let name = |disk: &Rc<strata_graph::GuestDisk>| match &*disk.options().id {
                    "" => disk.root().name().to_owned(),
                    id => id.to_owned(),
                };
                disks.iter().map(name).collect()
            }
        };
        let mut chains = Vec::new();
        for name in names {
            chains.push(self.look_at_chain(&name, parts).await?);
        }
        Ok(Reply::Chain(chains))
    }

    async fn look_at_chain(&self, name: &str, parts: u16) -> Result<ChainInfo, CmdError> {
        let mut last_error = "it changes".to_owned();
        for _ in 0..TRIES {
            let found = self.find_layer(name);
            let (disk, top) = found.ok_or_else(|| self.not_found(name))?;
            let layers: Vec<Rc<Node>> = top.chain().collect();
            let looked = ChainInfo::look(&top, parts).await;
            // A job that has ended meanwhile has closed layers.
            let is_same = top.chain().count() == layers.len()
                && top
                    .chain()
                    .zip(&layers)
                    .all(|(now, then)| Rc::ptr_eq(&now, then));
            match looked {
                Ok(mut chain) if is_same => {
                    chain.device = Some(disk.options().id.clone());
                    for (described, layer) in chain.layers.iter_mut().zip(&layers) {
                        described.node_name = Some(layer.name().to_owned());
                    }
                    return Ok(chain);
                }
                Ok(_) => {}
                Err(error) => last_error = error.to_string(),
            }
        }
        Err(refused(format!(
            "the chain of '{name}' cannot be described: {last_error}"
        )))
    }
}
