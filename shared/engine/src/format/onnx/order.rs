//! Whether the nodes of a graph can be put in an order, each after what it needs.

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is there from the start.
    Given,
    /// A node makes it.
    Made(u32),
    /// From around the graph, or from nowhere.
    Elsewhere,
}

/// Nodes with the values that they need.
#[derive(Default)]
pub(super) struct Order {
    needs: Vec<Vec<u32>>,
}

impl Order {
    /// Adds a node and tells its number.
    pub(super) fn add(&mut self, needs: impl Iterator<Item = u32>) -> u32 {
        self.needs.push(needs.collect());
        u32::try_from(self.needs.len() - 1).unwrap_or(u32::MAX)
    }

    /// The values from elsewhere, or a value that waits for itself. Files need not list nodes in order: engines sort them, too.
    pub(super) fn check(&self, value: impl Fn(u32) -> Value) -> Result<Vec<u32>, u32> {
        let mut elsewhere = Vec::new();
        let mut users: Vec<Vec<u32>> = vec![Vec::new(); self.needs.len()];
        let mut waits = vec![0usize; self.needs.len()];
        for (at, needs) in self.needs.iter().enumerate() {
            for need in needs {
                match value(*need) {
                    Value::Given => {}
                    Value::Elsewhere => elsewhere.push(*need),
                    Value::Made(maker) => {
                        waits[at] += 1;
                        users[maker as usize].push(u32::try_from(at).unwrap_or(u32::MAX));
                    }
                }
            }
        }
        let mut ready: Vec<usize> = (0..waits.len()).filter(|at| waits[*at] == 0).collect();
        let mut done = 0;
        while let Some(at) = ready.pop() {
            done += 1;
            for user in &users[at] {
                waits[*user as usize] -= 1;
                if waits[*user as usize] == 0 {
                    ready.push(*user as usize);
                }
            }
        }
        if done == waits.len() {
            return Ok(elsewhere);
        }
        let stuck = waits.iter().position(|waits| *waits > 0).unwrap_or(0);
        let made = |need: &&u32| matches!(value(**need), Value::Made(_));
        Err(self.needs[stuck].iter().find(made).copied().unwrap_or(0))
    }
}
