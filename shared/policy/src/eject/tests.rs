use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use weft_types::SystemClock;

use super::*;

fn rng() -> StdRng {
    StdRng::seed_from_u64(5)
}

fn host(successes: u64, failures: u64) -> Host {
    Host { counts: Counts { successes, failures, doubtful: 0 }, ..Host::default() }
}

fn failing(consecutive_failures: u32) -> Host {
    Host { consecutive_failures, ..Host::default() }
}

fn ejected(hosts: &[Host]) -> Vec<usize> {
    hosts.iter().enumerate().filter(|(_, host)| host.ejection.is_ejected()).map(|(index, _)| index).collect()
}

fn swept(settings: &Settings, mut hosts: Vec<Host>) -> Vec<usize> {
    sweep(settings, &mut hosts, SystemClock::now(), &mut rng());
    ejected(&hosts)
}

#[test]
fn the_defaults_are_those_of_the_grfc() {
    let settings = Settings::default();
    let times = [settings.interval, settings.base_ejection_time, settings.max_ejection_time].map(|time| time.as_secs());
    assert_eq!((times, settings.max_ejection_percent), ([10, 30, 300], 10));
    let SuccessRate { stdev_factor, enforcement_percentage, minimum_hosts, request_volume } = settings.success_rate;
    assert_eq!((stdev_factor, enforcement_percentage, minimum_hosts, request_volume), (1_900, 100, 5, 100));
    let FailurePercentage { threshold, enforcement_percentage, minimum_hosts, request_volume } =
        settings.failure_percentage;
    assert_eq!((threshold, enforcement_percentage, minimum_hosts, request_volume), (85, 100, 5, 50));
}

/// Of rates 1, 1, 1, 1, 1 and r, r is always sqrt(5) standard deviations below the mean: outside of 1.9, inside of 2.3.
#[test]
fn who_does_much_worse_than_the_others_is_ejected() {
    let hosts = |bad: u64| [vec![host(100, 0); 5], vec![host(100 - bad, bad)]].concat();
    let with = |stdev_factor| {
        let default = Settings::default();
        Settings { success_rate: SuccessRate { stdev_factor, ..default.success_rate }, ..default }
    };
    for bad in [1, 10, 80] {
        assert_eq!(swept(&with(1_900), hosts(bad)), [5], "{bad} of a hundred");
        assert_eq!(swept(&with(2_300), hosts(bad)), [0usize; 0], "{bad} of a hundred");
    }
    // With four equals it is two deviations below; with three, 1.7.
    assert_eq!(swept(&with(1_900), hosts(10)[1..].to_vec()), [4]);
}

#[test]
fn what_may_be_the_callers_doing_counts_beside_the_others_only() {
    let doubtful = |doubtful| Host { counts: Counts { doubtful, ..Counts::default() }, ..Host::default() };
    let settings = Settings::default();
    assert_eq!(swept(&settings, [vec![host(100, 0); 5], vec![doubtful(100)]].concat()), [5]);
    assert_eq!(swept(&settings, vec![doubtful(100); 6]), [0usize; 0]);
    // Failures of its own are held against each, however the others do.
    assert_eq!(swept(&settings, vec![host(0, 100); 6]), [0]);
}

#[test]
fn few_calls_or_few_hosts_are_no_ground() {
    let settings = Settings::default();
    let good = || vec![host(100, 0); 5];
    assert_eq!(swept(&settings, [good(), vec![host(50, 49)]].concat()), [0usize; 0], "99 calls");
    assert_eq!(swept(&settings, [good(), vec![host(50, 50)]].concat()), [5], "100 calls");
    // Four hosts with enough calls are too few to compare; the share of failures stands by itself.
    let quiet = |calls: u64, failures: u64| [vec![host(calls, 0); 4], vec![host(50 - failures, failures)]].concat();
    assert_eq!(swept(&settings, quiet(99, 42)), [0usize; 0], "84 %");
    assert_eq!(swept(&settings, quiet(99, 43)), [4], "86 %");
    assert_eq!(swept(&settings, [vec![host(99, 0); 4], vec![host(0, 49)]].concat()), [0usize; 0], "49 calls");
    assert_eq!(swept(&settings, [vec![host(99, 0); 3], vec![host(0, 90)]].concat()), [0usize; 0], "4 hosts");
    // The bound itself is not above the bound.
    let at_bound = |failures: u64| [vec![host(99, 0); 4], vec![host(100 - failures, failures)]].concat();
    let failure_only = Settings { success_rate: SuccessRate { minimum_hosts: 9, ..settings.success_rate }, ..settings };
    assert_eq!(swept(&failure_only, at_bound(85)), [0usize; 0]);
    assert_eq!(swept(&failure_only, at_bound(86)), [4]);
}

#[test]
fn five_failures_in_a_row_eject_at_once() {
    let (settings, now) = (Settings::default(), SystemClock::now());
    let mut hosts = vec![failing(4), failing(5), failing(0)];
    let outcome = |index, outcome| Found { index, method: Method::ConsecutiveFailures, outcome };
    assert_eq!(trip(&settings, &mut hosts, now), [outcome(1, Outcome::Ejected)]);
    // The one that is ejected is not found again; another is one too many.
    hosts[0].consecutive_failures = 5;
    assert_eq!(trip(&settings, &mut hosts, now), [outcome(0, Outcome::MaxEjectionOverflow)]);
    assert_eq!(ejected(&hosts), [1]);
    assert_eq!(
        ejected(&{
            let mut one = [failing(9)];
            trip(&settings, &mut one, now);
            one
        }),
        [0usize; 0],
        "the only one"
    );
}

/// 30 s, then 60 s, up to 300 s; less by one for each interval that it was not ejected in.
#[test]
fn ejections_grow_longer_and_are_forgotten_again() {
    let (settings, start) = (Settings::default(), SystemClock::now());
    let second = Duration::from_secs(1);
    let mut hosts = vec![Host::default(); 3];
    let mut now = start;
    for times in 1..=12 {
        hosts[0].consecutive_failures = 5;
        trip(&settings, &mut hosts, now);
        let expected = 30 * second * u32::min(times, 10);
        assert_eq!(hosts[0].ejection.time(&settings), Some(expected));
        sweep(&settings, &mut hosts, now, &mut rng());
        assert!(!hosts[0].ejection.is_over(&settings, now + expected - second / 1000));
        assert!(hosts[0].ejection.is_over(&settings, now + expected));
        hosts[0].ejection.end();
        now += expected;
    }
    hosts[0].consecutive_failures = 0;
    for _ in 0..11 {
        sweep(&settings, &mut hosts, now, &mut rng());
    }
    hosts[0].consecutive_failures = 5;
    trip(&settings, &mut hosts, now);
    assert_eq!(hosts[0].ejection.time(&settings), Some(60 * second), "one of twelve was left");
    let short = Settings { max_ejection_time: second, ..settings };
    assert_eq!(hosts[0].ejection.time(&short), Some(30 * second), "never below the base");
}

/// With half of the outliers enforced, about half are; with none, none.
#[test]
fn chance_lets_go_whom_it_is_told_to() {
    let default = Settings::default();
    let with = |enforcement_percentage| {
        let failure_percentage = FailurePercentage { enforcement_percentage, ..default.failure_percentage };
        let success_rate = SuccessRate { minimum_hosts: usize::MAX, ..default.success_rate };
        Settings { max_ejection_percent: 100, failure_percentage, success_rate, ..default }
    };
    let count = |percent| swept(&with(percent), vec![host(0, 100); 1_001]).len();
    assert_eq!((count(0), count(100)), (0, 1_000), "all but the last");
    assert!((400..600).contains(&count(50)), "{}", count(50));
    let mut hosts = vec![host(0, 100); 5];
    let found = sweep(&with(0), &mut hosts, SystemClock::now(), &mut rng());
    assert!(found.iter().all(|found| found.outcome == Outcome::EnforcementPercentage) && found.len() == 5);
}

fn step() -> impl Strategy<Value = Vec<(u64, u64, u64, u32)>> {
    let large = prop_oneof![0u64..200, Just(u64::MAX)];
    prop::collection::vec((0u64..200, large, 0u64..200, 0u32..8), 1..24)
}

proptest! {
    /// Whatever happens over many intervals: the cap holds, somebody is always left, whoever had no calls stays, every ejection ends,
    /// and the same history leads to the same ejections.
    #[test]
    fn the_cap_holds(percent in 0u32..200, steps in prop::collection::vec(step(), 1..8), seed: u64) {
        let settings = Settings { max_ejection_percent: percent, ..Settings::default() };
        let start = SystemClock::now();
        let count = steps.iter().map(Vec::len).min().unwrap_or(1);
        let run = || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut hosts = vec![Host::default(); count];
            let mut history = Vec::new();
            for (step, told) in steps.iter().enumerate() {
                let now = start + settings.interval * u32::try_from(step).unwrap_or(0);
                for (host, (successes, failures, doubtful, row)) in hosts.iter_mut().zip(told) {
                    host.counts = Counts { successes: *successes, failures: *failures, doubtful: *doubtful };
                    host.consecutive_failures = *row;
                    if host.ejection.is_over(&settings, now) { host.ejection.end(); }
                }
                // The first one has no calls at all.
                (hosts[0].counts, hosts[0].consecutive_failures) = (Counts::default(), 0);
                trip(&settings, &mut hosts, now);
                sweep(&settings, &mut hosts, now, &mut rng);
                history.push(hosts.clone());
            }
            history
        };
        let history = run();
        for hosts in &history {
            let out = ejected(hosts);
            prop_assert!(out.len() <= (count * percent as usize / 100).max(1), "{out:?} of {count}");
            prop_assert!(out.len() < count && !out.contains(&0), "{out:?} of {count}");
            let end = start + Duration::from_secs(70 + 300);
            prop_assert!(hosts.iter().all(|host| !host.ejection.is_ejected() || host.ejection.is_over(&settings, end)));
        }
        prop_assert_eq!(history, run());
    }
}
