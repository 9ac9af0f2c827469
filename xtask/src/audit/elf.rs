//! Reads what is to be audited: an object, an archive of them, or a linked image. Gives functions by
//! name and place, and what each relocation means.

use std::fs;
use std::path::{Path, PathBuf};

use object::read::archive::ArchiveFile;
use object::{
    Architecture, File, FileKind, Object, ObjectKind, ObjectSection, ObjectSymbol,
    RelocationTarget, SectionIndex, SymbolFlags, SymbolKind, SymbolSection,
};

use super::isa::Isa;
use super::rules::SECTION;
use crate::command::root;

/// Everything that one file on the command line holds.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) isa: Isa,
    pub(crate) big_endian: bool,
    pub(crate) functions: Vec<Function>,
    members: Vec<Member>,
    /// Where members of an archive were written to.
    scratch: Option<PathBuf>,
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(directory) = &self.scratch {
            // Left over, it costs only disk space.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// A file for the disassembler: the one that was named, or a member of an archive.
#[derive(Debug)]
struct Member {
    path: PathBuf,
    /// Addresses are final and relocations gone.
    linked: bool,
    relocations: Vec<Relocation>,
}

/// A named piece of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) symbol: String,
    pub(crate) section: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    global: bool,
    member: usize,
    section_index: SectionIndex,
    /// Bytes in front of the entry that calls from the same module use.
    local_entry: u64,
}

#[derive(Debug)]
struct Relocation {
    section: SectionIndex,
    at: u64,
    meaning: Meaning,
}

/// What an instruction refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A place in the same member, and what it is called there.
    Place(SectionIndex, u64, String),
    /// Something that may be defined elsewhere.
    Name(String),
}

impl Image {
    /// Reads `path`. Members of an archive are written out for the disassembler.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let data = fs::read(path).map_err(|error| at(&error))?;
        let mut image: Option<Self> = None;
        let kind = FileKind::parse(&*data).map_err(|error| at(&error))?;
        if kind != FileKind::Archive {
            add(&mut image, path.to_owned(), &data).map_err(|error| at(&error))?;
        } else {
            let archive = ArchiveFile::parse(&*data).map_err(|error| at(&error))?;
            // Beside what other processes are at.
            let scratch = root().join(format!("target/audit/members/{}", std::process::id()));
            fs::create_dir_all(&scratch).map_err(|error| at(&error))?;
            for (number, member) in archive.members().enumerate() {
                let member = member.map_err(|error| at(&error))?;
                let bytes = member.data(&*data).map_err(|error| at(&error))?;
                let file = scratch.join(format!("{number}.o"));
                // The description of an archive is no object.
                if FileKind::parse(bytes).is_ok_and(|kind| kind == FileKind::Elf64) {
                    fs::write(&file, bytes).map_err(|error| at(&error))?;
                    add(&mut image, file, bytes).map_err(|error| at(&error))?;
                }
            }
            image.iter_mut().for_each(|image| image.scratch = Some(scratch.clone()));
        }
        image.ok_or_else(|| at(&"holds no ELF object"))
    }

    pub(crate) fn path(&self, function: &Function) -> &Path {
        self.members.get(function.member).map_or(Path::new(""), |member| &member.path)
    }

    /// Whether the function stands in an image whose sections were merged.
    pub(crate) fn is_linked(&self, function: &Function) -> bool {
        self.members.get(function.member).is_some_and(|member| member.linked)
    }

    /// The function that a caller in `from` reaches at this address.
    pub(crate) fn at(&self, from: &Function, address: u64) -> Option<usize> {
        self.in_section(from.member, from.section_index, address)
    }

    fn in_section(&self, member: usize, section: SectionIndex, address: u64) -> Option<usize> {
        self.functions.iter().position(|function| {
            function.member == member
                && (function.section_index == section || self.is_linked(function))
                && (function.start == address || function.start + function.local_entry == address)
        })
    }

    /// What the relocations in these bytes of `function` refer to.
    pub(crate) fn relocations(
        &self,
        function: &Function,
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = &Meaning> {
        let all = self.members.get(function.member).map_or(&[][..], |member| &member.relocations);
        let here = move |relocation: &&Relocation| {
            relocation.section == function.section_index && (start..end).contains(&relocation.at)
        };
        all.iter().filter(here).map(|relocation| &relocation.meaning)
    }

    /// The function that `meaning` stands for in the member of `from`.
    pub(crate) fn resolve(&self, from: &Function, meaning: &Meaning) -> Option<usize> {
        match meaning {
            Meaning::Place(section, address, _) => self.in_section(from.member, *section, *address),
            Meaning::Name(name) => self
                .functions
                .iter()
                .position(|function| function.global && function.symbol == *name),
        }
    }
}

#[cfg(test)]
impl Image {
    /// One function without relocations, for tests on text.
    pub(crate) fn of_one(isa: Isa, start: u64, end: u64) -> Self {
        let function = Function {
            symbol: "f".to_owned(),
            section: SECTION.to_owned(),
            start,
            end,
            global: true,
            member: 0,
            section_index: SectionIndex(1),
            local_entry: 0,
        };
        let member = Member { path: PathBuf::new(), linked: false, relocations: Vec::new() };
        Self {
            isa,
            big_endian: false,
            functions: vec![function],
            members: vec![member],
            scratch: None,
        }
    }
}

fn add(image: &mut Option<Image>, path: PathBuf, data: &[u8]) -> Result<(), String> {
    let file = File::parse(data).map_err(|error| error.to_string())?;
    let isa = isa(&file)?;
    let big_endian = !file.is_little_endian();
    let image = image.get_or_insert_with(|| Image {
        isa,
        big_endian,
        functions: Vec::new(),
        members: Vec::new(),
        scratch: None,
    });
    if image.isa != isa || image.big_endian != big_endian {
        return Err("its members are for several machines".to_owned());
    }
    let number = image.members.len();
    image.functions.append(&mut functions(&file, number)?);
    let linked = file.kind() != ObjectKind::Relocatable;
    let relocations = if linked { Vec::new() } else { relocations(&file, isa)? };
    image.members.push(Member { path, linked, relocations });
    Ok(())
}

fn isa(file: &File<'_>) -> Result<Isa, String> {
    match (file.architecture(), file.is_little_endian()) {
        (Architecture::X86_64, true) => Ok(Isa::X86_64),
        (Architecture::Aarch64, true) => Ok(Isa::Aarch64),
        (Architecture::PowerPc64, _) => Ok(Isa::Power),
        (Architecture::S390x, false) => Ok(Isa::S390x),
        (other, little) => {
            let order = if little { "little" } else { "big" };
            Err(format!("no machine that the audit knows: {other:?}, {order} endian"))
        }
    }
}

fn functions(file: &File<'_>, member: usize) -> Result<Vec<Function>, String> {
    let mut functions = Vec::new();
    for symbol in file.symbols() {
        let SymbolSection::Section(section_index) = symbol.section() else { continue };
        if symbol.kind() != SymbolKind::Text {
            continue;
        }
        let section = file.section_by_index(section_index).map_err(|error| error.to_string())?;
        let section = section.name().map_err(|error| error.to_string())?.to_owned();
        if section == ".opd" {
            return Err("calls go through descriptors (ELFv1); build for ELFv2".to_owned());
        }
        let name = symbol.name().map_err(|error| error.to_string())?.to_owned();
        if section.starts_with(SECTION) && symbol.size() == 0 {
            return Err(format!("{name} in {section} has no size"));
        }
        let start = symbol.address();
        let end = start.checked_add(symbol.size()).ok_or("a symbol's size wraps")?;
        let (global, local_entry) = (symbol.is_global(), local_entry(file, &symbol.flags()));
        functions.push(Function {
            symbol: name,
            section,
            start,
            end,
            global,
            member,
            section_index,
            local_entry,
        });
    }
    Ok(functions)
}

/// Power: three bits of a symbol say how far behind the first instruction a local call enters.
fn local_entry<S, T>(file: &File<'_>, flags: &SymbolFlags<S, T>) -> u64 {
    match flags {
        SymbolFlags::Elf { st_other, .. } if file.architecture() == Architecture::PowerPc64 => {
            match st_other.0 >> 5 {
                code @ 2..=6 => 1 << code,
                _ => 0,
            }
        }
        _ => 0,
    }
}

/// Those of the sections whose functions can be audited.
fn relocations(file: &File<'_>, isa: Isa) -> Result<Vec<Relocation>, String> {
    let mut relocations = Vec::new();
    for section in file.sections().filter(|section| section.kind() == object::SectionKind::Text) {
        for (at, relocation) in section.relocations() {
            let meaning = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = file.symbol_by_index(index).map_err(|error| error.to_string())?;
                    let addend = if symbol.kind() == SymbolKind::Section {
                        relocation.addend() + behind(isa)
                    } else {
                        0
                    };
                    let address = symbol.address().wrapping_add_signed(addend);
                    let name = spelled(file, &symbol);
                    match symbol.section() {
                        SymbolSection::Section(section) => Meaning::Place(section, address, name),
                        _ => Meaning::Name(name),
                    }
                }
                other => Meaning::Name(format!("{other:?}")),
            };
            relocations.push(Relocation { section: section.index(), at, meaning });
        }
    }
    Ok(relocations)
}

/// The symbol's name, or that of the section that it stands for.
fn spelled<'a>(file: &File<'a>, symbol: &impl ObjectSymbol<'a>) -> String {
    let section = || file.section_by_index(symbol.section_index()?).ok();
    match symbol.name() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => {
            section().and_then(|section| section.name().ok().map(str::to_owned)).unwrap_or_default()
        }
    }
}

/// Relative addresses count from the end of the instruction on x86, from its start on s390x: how far
/// that is behind the relocated bytes.
const fn behind(isa: Isa) -> i64 {
    match isa {
        Isa::X86_64 => 4,
        Isa::S390x => -2,
        Isa::Aarch64 | Isa::Power => 0,
    }
}
