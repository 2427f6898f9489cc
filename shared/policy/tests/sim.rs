//! The simulated mesh: repeatable, decided by the policies that ship, and worse without them.

#[path = "../benches/sim"]
#[expect(dead_code, reason = "scenarios and methods that only the benchmark runs")]
mod sim {
    pub(crate) mod lately;
    pub(crate) mod mesh;
    pub(crate) mod method;
    pub(crate) mod placing;
    pub(crate) mod report;
    pub(crate) mod router;
    pub(crate) mod scenario;
    pub(crate) mod tally;
    pub(crate) mod worker;
}

use sim::mesh::Mesh;
use sim::method::{Balance, Method};
use sim::report;
use sim::scenario::{Model, SECOND, Scenario};
use sim::tally::{Figures, Tally};

/// What the whole simulation has to reach in its mixed scenario, in percent.
const MISSED: f64 = 0.1;

fn brief(scenario: Scenario) -> Scenario {
    Scenario { warm: SECOND, span: 5 * SECOND, ..scenario }
}

fn run(scenario: &Scenario, method: Method, seed: u64) -> Tally {
    // Without names for what is simulated nothing runs, and nothing is counted.
    Mesh::run(scenario, method, seed).unwrap_or_default()
}

fn figures(scenario: &Scenario, method: Method) -> Figures {
    run(scenario, method, 1).figures()
}

/// All that is told of a run.
fn told(scenario: &Scenario, seed: u64) -> String {
    let runs: Vec<(&str, Tally)> = Method::ALL.map(|method| (method.name, run(scenario, method, seed))).into();
    let rows: Vec<_> = runs.iter().map(|(name, tally)| (scenario.name, *name, tally.figures())).collect();
    report::table(&rows) + &report::picture(scenario.name, &runs)
}

#[test]
fn a_seed_is_repeated_to_the_byte() {
    let scenario = brief(Scenario { fails: 0.02, ..Scenario::mixed() });
    assert_eq!(told(&scenario, 1), told(&scenario, 1));
    assert_ne!(told(&scenario, 1), told(&scenario, 2));
}

#[test]
fn every_method_sees_the_same_calls() {
    let scenario = brief(Scenario::failing());
    let sent = |method| {
        let tally = run(&scenario, method, 3);
        (tally.calls, tally.realtime.sent, tally.batch.sent)
    };
    assert!(Method::ALL.iter().all(|method| sent(*method) == sent(Method::WEFT)));
}

#[test]
fn nothing_is_answered_twice_and_no_device_is_used_twice() {
    for scenario in [brief(Scenario::mixed()), brief(Scenario::failing()), brief(Scenario::bursty())] {
        for method in Method::ALL {
            let tally = run(&scenario, method, 2);
            assert!(
                tally.realtime.met <= tally.realtime.sent && tally.batch.met <= tally.batch.sent,
                "{}",
                method.name
            );
            assert!(tally.useful + tally.wasted <= tally.there, "{} {}", scenario.name, method.name);
        }
    }
}

/// Every baseline misses more deadlines on the same calls; so does what ships with one of its policies taken out.
#[test]
fn each_policy_has_its_part_in_it() {
    let scenario = brief(Scenario::mixed());
    let weft = figures(&scenario, Method::WEFT).missed;
    assert!(weft <= MISSED * 2.0, "{weft}");
    let first = Method { balance: Balance::First, ..Method::WEFT };
    let blind = Method { balance: Balance::RoundRobin, ..Method::WEFT };
    let unordered = Method { orders: false, preempts: false, ..Method::WEFT };
    let others = Method::ALL.into_iter().filter(|method| *method != Method::WEFT);
    for method in others.chain([first, blind, unordered]) {
        let missed = figures(&scenario, method).missed;
        assert!(missed > weft + MISSED, "{} {:?}: {missed}, {weft} of what ships", method.name, method.balance);
    }
}

/// A small fleet through one day: it holds what the calls take, at most twice where they wait for each other, and not all that there is memory for.
#[test]
fn the_autoscaler_follows_the_day() {
    let days = Scenario::days();
    let models = days.models.iter().map(|model| Model { rate: model.rate / 10.0, ..*model });
    let scenario = Scenario { workers: 30, routers: 2, models: models.collect(), span: 140 * SECOND, ..days };
    let [scaled, all] = [Method::AUTOSCALED, Method::WEFT].map(|method| figures(&scenario, method));
    assert!(scaled.held < all.held * 0.8 && scaled.missed < MISSED, "{scaled:?} {all:?}");
}

/// Where batch executions take longer than realtime calls have, and those are few, they are in time only if they need not wait.
#[test]
fn without_preemption_realtime_calls_wait_for_long_batches() {
    let longer = |model: Model| if model.band == 1 { model } else { Model { longs: 0.05, ..model } };
    let mixed = Scenario::mixed();
    let models = mixed.models.iter().map(|model| {
        let model = longer(*model);
        Model { rate: model.rate * if model.band == 1 { 0.05 } else { 0.5 }, ..model }
    });
    let scenario = brief(Scenario { models: models.collect(), ..mixed });
    let with = run(&scenario, Method::WEFT, 1);
    let without = run(&scenario, Method { preempts: false, ..Method::WEFT }, 1).figures();
    let (preemptions, with) = (with.preemptions, with.figures());
    assert!(preemptions > 0);
    assert!(with.realtime_missed * 3.0 < without.realtime_missed, "{with:?} {without:?}");
    assert!(with.switch > 0.0 && with.switch <= 5.0, "{with:?}");
}
