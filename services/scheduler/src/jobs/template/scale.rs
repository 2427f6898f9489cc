//! What a value weighs, found out before it is made.

use std::io::{self, ErrorKind, Sink, Write};

use serde_json::Serializer;
use serde_json::ser::{CharEscape, Formatter};

use super::{NODE, Problem, Room};

/// Takes room for what is written to it, as [`super::check_size`] does for a value, and keeps nothing.
pub(crate) struct Scale(Room);

/// Fails when what `write` writes would weigh more than a value may.
pub(crate) fn weigh(write: impl FnOnce(&mut Serializer<Sink, Scale>) -> serde_json::Result<()>) -> Result<(), Problem> {
    weigh_in(Room::of_value(), write)
}

pub(super) fn weigh_in(
    mut room: Room,
    write: impl FnOnce(&mut Serializer<Sink, Scale>) -> serde_json::Result<()>,
) -> Result<(), Problem> {
    room.take(NODE)?;
    let mut scale = Serializer::with_formatter(io::sink(), Scale(room));
    write(&mut scale).map_err(|error| match error.is_io() {
        true => Problem::TooLarge,
        false => Problem::Unfit(error.to_string()),
    })
}

impl Scale {
    fn take(&mut self, bytes: usize) -> io::Result<()> {
        self.0.take(bytes).map_err(|_| ErrorKind::FileTooLarge.into())
    }
}

impl Formatter for Scale {
    fn begin_array_value<W: ?Sized + Write>(&mut self, _: &mut W, _: bool) -> io::Result<()> {
        self.take(NODE)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.take(NODE)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, _: &mut W, fragment: &str) -> io::Result<()> {
        self.take(fragment.len())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, _: &mut W, _: CharEscape) -> io::Result<()> {
        self.take(1)
    }
}
