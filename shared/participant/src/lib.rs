//! For services that jobs call: a barrier in front of their effects.
//!
//! A job tries its actions and undos again until it knows how they ended, and undoes what it does not know. A service that is called,
//! a participant, therefore sees duplicates, undos of actions that never arrived, and actions that arrive after their undo.
//!
//! - [`mark`]: [`Mark`], what the headers of a call say of it: which effect, in which direction, which attempt, under which owner.
//! - [`barrier`]: [`Barrier`] keeps a row for each effect and says what is to be done about a call: [`Entry`]. [`Pass`] tells it how that ended.
//! - [`decide`]: the states of a row and what each delivery does to it, without IO.
//! - [`row`]: a row as it is stored.
//!
//! The three anomalies and the table of rows that ends them are those of compensating transactions over unreliable calls: H. Garcia-Molina and
//! K. Salem, "Sagas" (SIGMOD 1987), for undo in place of rollback; P. Helland, "Life beyond Distributed Transactions" (CIDR 2007), for
//! remembering what was done for whom; and the sub-transaction barrier of DTM for empty undos and late actions.
//!
//! Nothing here spawns a task.

pub mod barrier;
pub mod decide;
pub mod mark;
pub mod row;

pub use barrier::{Barrier, Entry, Limits, MAX_ANSWER_BYTES, Pass};
pub use mark::{Direction, Key, Mark};
