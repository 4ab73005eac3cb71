//! Wall time per scenario: `cargo bench -p stage2 --bench time`. Compare numbers of one run only.

mod scenarios;

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

fn time(criterion: &mut Criterion) {
    for scenario in scenarios::all() {
        let (group, rest) = scenario.name.split_once('/').unwrap_or((scenario.name, ""));
        let mut group = criterion.benchmark_group(group);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .throughput(Throughput::Elements(scenario.entries));
        group.bench_function(rest, |bencher| {
            bencher.iter_batched(scenario.prepare, |work| work(), BatchSize::PerIteration);
        });
        group.finish();
    }
}

criterion_group!(benches, time);
criterion_main!(benches);
