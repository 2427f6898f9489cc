//! What hangs in the gallery. That each call has its effect once is the barrier's work.

use weft_participant::Key;
use weft_proto::weft::demo::v1::{Picture, PublishRequest};
use weft_types::{Error, Reason, Result};

/// Pictures over the whole life of the gallery; far more than the demonstration and whoever plays with it hang.
pub(super) const MOST: usize = 1_000;
const LONGEST_PLACE: usize = 64;

/// Every picture that was ever hung, in their order.
#[derive(Debug, Default)]
pub(super) struct Walls(Vec<Picture>);

/// Whether a picture can hang there.
pub(super) fn check(place: &str) -> Result<()> {
    if place.is_empty() || place.len() > LONGEST_PLACE {
        return Err(Error::invalid("place", format_args!("must have 1 to {LONGEST_PLACE} bytes")));
    }
    Ok(())
}

impl Walls {
    /// Hangs a picture, unless it hangs already, and tells its number.
    pub(super) fn hang(&mut self, key: &Key, wanted: PublishRequest) -> Result<u64> {
        if let Some(number) = self.number(key) {
            return Ok(number);
        }
        if self.0.len() >= MOST {
            return Err(Error::new(Reason::Overloaded, "the gallery is full"));
        }
        let PublishRequest { place, label } = wanted;
        if self.0.iter().any(|picture| !picture.retracted && picture.place == place) {
            return Err(Error::of_field(Reason::Conflict, "place", "another picture hangs there"));
        }
        self.0.push(Picture { key: key.as_str().to_owned(), place, label, retracted: false });
        Ok(self.0.len() as u64)
    }

    /// Takes a picture down; whether there was one.
    pub(super) fn take_down(&mut self, key: &Key) -> bool {
        let hangs = |picture: &&mut Picture| !picture.retracted && picture.key == key.as_str();
        self.0.iter_mut().find(hangs).map(|picture| picture.retracted = true).is_some()
    }

    /// The number of the picture of this key that hangs, from 1.
    pub(super) fn number(&self, key: &Key) -> Option<u64> {
        let at = self.0.iter().position(|picture| !picture.retracted && picture.key == key.as_str())?;
        Some(at as u64 + 1)
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<Picture> {
        self.0.iter().filter(|picture| picture.key.starts_with(prefix)).cloned().collect()
    }
}
