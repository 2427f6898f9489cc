//! The only file that names concrete engines.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_engine::{Builtin, Engine, Tract};

/// Every engine of this build, by the name that configurations use.
pub(crate) fn engines() -> BTreeMap<&'static str, Arc<dyn Engine>> {
    let engines: [Arc<dyn Engine>; 2] = [Arc::new(Builtin::new()), Arc::new(Tract::new())];
    engines.into_iter().map(|engine| (engine.name(), engine)).collect()
}
