//! Namespaces: in each, a name is one thing's.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

/// Names of things of one kind. All clones are the same namespace.
#[derive(Debug, Clone, Default)]
pub struct Namespace(Rc<RefCell<BTreeSet<String>>>);

impl Namespace {
    /// Takes a name; `None` if something has it, or a command that is under way has reserved it.
    pub fn reserve(&self, name: &str) -> Option<Name> {
        let free = self.0.borrow_mut().insert(name.to_owned());
        free.then(|| Name {
            text: name.to_owned(),
            namespace: self.clone(),
        })
    }

    /// Whether something has the name, or a command has reserved it.
    pub fn contains(&self, name: &str) -> bool {
        self.0.borrow().contains(name)
    }
}

/// A name, kept from others until it is dropped: with what has it, or with the command that
/// reserved it and came to nothing.
#[derive(Debug)]
pub struct Name {
    text: String,
    namespace: Namespace,
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.namespace.0.borrow_mut().remove(&self.text);
    }
}

#[cfg(test)]
mod tests;
