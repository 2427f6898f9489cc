//! Scratch.
#![allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::panic,
    clippy::print_stderr,
    clippy::needless_pass_by_value
)]
use std::time::{Duration, Instant};
use weft_engine::*;
use weft_engine_native::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some("engine") {
        child::run().unwrap();
        return;
    }
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    rt.block_on(async move {
        let tasks = weft_runtime::Tasks::new();
        let threads = args[3].parse().unwrap();
        let host = Host::new(
            HostOptions {
                program: std::env::current_exe().ok(),
                onnxruntime: Some(args[1].clone().into()),
                threads,
                ..HostOptions::default()
            },
            tasks.clone(),
        );
        for name in ["tract", "onnxruntime"] {
            let engine = host.engine(name);
            let spec = Spec {
                name: "digits".into(),
                source: Source::Bytes(bytes::Bytes::from_static(digits::MODEL)),
                max_batch_size: 64,
                parameters: Default::default(),
            };
            let t = Instant::now();
            let model = engine.load(&spec).await.unwrap();
            println!("{name} load {:?} size {} {:?}", t.elapsed(), model.size_bytes(), model.signature());
            model.warm().await.unwrap();
            let images: Vec<f32> = digits::heldout().take(4).flat_map(|image| image.input()).collect();
            let out = model.execute(vec![vec![Tensor::of("PIXELS", &[4, 64], &images)]]).await.unwrap();
            println!("{:?}", out[0].as_ref().unwrap()[1].elements::<i64>().unwrap().collect::<Vec<_>>());
            let one: Vec<f32> = images[..64].to_vec();
            let req = vec![Tensor::of("PIXELS", &[1, 64], &one)];
            for _ in 0..200 {
                model.execute(vec![req.clone()]).await.unwrap();
            }
            let n = 5000;
            let t = Instant::now();
            for _ in 0..n {
                model.execute(vec![req.clone()]).await.unwrap();
            }
            println!("{name} digits per execute {:?}", t.elapsed() / n);
            println!("{:?} {:?}", host.processes(), host.statistics());
            drop(out);
            drop(model);
        }
        if args[2] != "-" {
            let engine = host.engine("onnxruntime");
            let spec = Spec {
                name: "magika".into(),
                source: Source::File(args[2].clone().into()),
                max_batch_size: 64,
                parameters: Default::default(),
            };
            let model = engine.load(&spec).await.unwrap();
            println!("{:?}", model.signature());
            let port = &model.signature().inputs[0];
            let width = port.shape.as_ref().unwrap()[1] as usize;
            for batch in [1usize, 8, 16] {
                let data: Vec<i32> = (0..batch * width).map(|i| (i % 256) as i32).collect();
                let t = Tensor::of(port.name.clone(), &[batch, width], &data);
                let req = vec![t];
                for _ in 0..5 {
                    model.execute(vec![req.clone()]).await.unwrap().remove(0).unwrap();
                }
                let n = 400 / batch as u32 / 2 + 10;
                let mut best = Duration::MAX;
                let mut all = vec![];
                for _ in 0..n {
                    let t = Instant::now();
                    model.execute(vec![req.clone()]).await.unwrap().remove(0).unwrap();
                    let e = t.elapsed();
                    all.push(e);
                    best = best.min(e);
                }
                all.sort();
                println!("magika batch {batch}: median {:?} min {:?}", all[all.len() / 2], best);
            }
            println!("{:?}", host.statistics());
        }
        tasks.finish(Duration::from_secs(5)).await;
    });
}
