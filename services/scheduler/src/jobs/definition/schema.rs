//! Descriptors from outside, checked before they are read: of a job's definition, or by another service's reflection.
//!
//! prost-reflect 0.16 follows public imports without remembering where it has been, so that a cycle ends the process and a lattice takes for
//! ever; and it writes out the full name of each field, so that few bytes can become many.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const MAX_FILES: usize = 256;
const MAX_PUBLIC_IMPORTS: usize = 64;
/// Bytes of a descriptor set: a service with its messages takes some thousands.
const MAX_SET_BYTES: usize = 128 << 10;
/// Different sets in one definition: each has a copy of protobuf's own files.
const MAX_SETS: usize = 8;
/// Bytes of all full names together, in a definition those of all its sets.
const MAX_NAME_BYTES: usize = 4 << 20;

/// The descriptor sets of one definition: each is read once, and what they may take they may take together.
#[derive(Default)]
pub(super) struct Described {
    pools: BTreeMap<Vec<u8>, Result<DescriptorPool, String>>,
    /// Bytes of their full names.
    names: usize,
}

impl Described {
    /// The method that an encoded set describes.
    pub(super) fn method(&mut self, set: &[u8], service: &str, method: &str) -> Result<MethodDescriptor, String> {
        if !self.pools.contains_key(set) {
            if set.len() > MAX_SET_BYTES {
                return Err(format!("must be at most {MAX_SET_BYTES} bytes"));
            }
            if self.pools.len() >= MAX_SETS {
                return Err(format!("is one of more than {MAX_SETS} different ones in the definition"));
            }
            let pool = self.decode(set);
            self.pools.insert(set.to_vec(), pool);
        }
        match self.pools.get(set) {
            Some(Ok(pool)) => unary(pool, service, method),
            Some(Err(problem)) => Err(problem.clone()),
            None => Err("is not there".to_owned()),
        }
    }

    fn decode(&mut self, set: &[u8]) -> Result<DescriptorPool, String> {
        let set = FileDescriptorSet::decode(set).map_err(|_| "is no FileDescriptorSet".to_owned())?;
        let (pool, names) = pool_within(set.file, MAX_NAME_BYTES.saturating_sub(self.names))?;
        self.names += names;
        Ok(pool)
    }
}

/// The pool of these files, which must be complete but for protobuf's own.
pub(crate) fn pool(files: Vec<FileDescriptorProto>) -> Result<DescriptorPool, String> {
    pool_within(files, MAX_NAME_BYTES).map(|(pool, _)| pool)
}

/// As [`pool`], with so many bytes of full names at most; and how many they are.
fn pool_within(files: Vec<FileDescriptorProto>, most: usize) -> Result<(DescriptorPool, usize), String> {
    if files.len() > MAX_FILES {
        return Err(format!("has more than {MAX_FILES} files"));
    }
    check_imports(&files)?;
    let mut room = Some(most);
    for file in &files {
        weigh_file(file, &mut room);
    }
    let Some(left) = room else { return Err(format!("its names are longer than {most} bytes")) };
    // It knows protobuf's own files, and is copied when others are added.
    let mut pool = DescriptorPool::global();
    pool.add_file_descriptor_protos(files).map_err(|error| error.to_string())?;
    Ok((pool, most - left))
}

/// The method of a pool, unless it streams.
pub(crate) fn unary(pool: &DescriptorPool, service: &str, method: &str) -> Result<MethodDescriptor, String> {
    let found = pool.get_service_by_name(service).ok_or("the service is not described")?;
    let found = found.methods().find(|found| found.name() == method).ok_or("the service has no such method")?;
    match found.is_client_streaming() || found.is_server_streaming() {
        true => Err("the method streams: only unary methods can be called".to_owned()),
        false => Ok(found),
    }
}

/// Refuses imports in a circle, the same import twice, and more public ones than any service needs.
fn check_imports(files: &[FileDescriptorProto]) -> Result<(), String> {
    let mut left = BTreeMap::new();
    let mut public = 0;
    for file in files {
        let imports: BTreeSet<&str> = file.dependency.iter().map(String::as_str).collect();
        let of_public: BTreeSet<i32> = file.public_dependency.iter().copied().collect();
        if imports.len() < file.dependency.len() || of_public.len() < file.public_dependency.len() {
            return Err("a file imports another twice".to_owned());
        }
        public += of_public.len();
        if left.insert(file.name(), imports).is_some() {
            return Err("two files have one name".to_owned());
        }
    }
    if public > MAX_PUBLIC_IMPORTS {
        return Err(format!("has more than {MAX_PUBLIC_IMPORTS} public imports"));
    }
    // Whoever imports nothing that is left goes first; what then stays is in a circle.
    loop {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, imports)| !imports.iter().any(|import| left.contains_key(import)))
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|name| drop(left.remove(name)));
    }
    if left.is_empty() { Ok(()) } else { Err("files import each other in a circle".to_owned()) }
}

/// What is left of the bytes that names may take; `None` when there are more.
type Room = Option<usize>;

fn take(room: &mut Room, prefix: usize, name: &str) -> usize {
    let length = prefix + 1 + name.len();
    *room = room.and_then(|room| room.checked_sub(length));
    length
}

fn weigh_file(file: &FileDescriptorProto, room: &mut Room) {
    let package = take(room, 0, file.package());
    file.message_type.iter().for_each(|message| weigh_message(message, package, room));
    file.enum_type.iter().for_each(|of| weigh_enum(of, package, room));
    file.extension.iter().for_each(|field| {
        take(room, package, field.name());
    });
    for service in &file.service {
        let length = take(room, package, service.name());
        for method in &service.method {
            take(room, length, method.name());
        }
    }
}

/// How deep messages are in each other is bounded by how deep a set is decoded.
fn weigh_message(message: &DescriptorProto, prefix: usize, room: &mut Room) {
    let length = take(room, prefix, message.name());
    for field in message.field.iter().chain(&message.extension) {
        take(room, length, field.name());
        // What is not said is made of the name, or taken from the names around.
        take(room, field.type_name().len(), field.json_name());
    }
    message.oneof_decl.iter().for_each(|of| {
        take(room, length, of.name());
    });
    message.enum_type.iter().for_each(|of| weigh_enum(of, length, room));
    message.nested_type.iter().for_each(|nested| weigh_message(nested, length, room));
}

fn weigh_enum(of: &EnumDescriptorProto, prefix: usize, room: &mut Room) {
    let length = take(room, prefix, of.name());
    of.value.iter().for_each(|value| {
        take(room, length, value.name());
    });
}
