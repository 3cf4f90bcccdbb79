//! Takes the DWARF out of the kernel programs' object.
//!
//! The compiler needs debug information to make BTF, which the kernel wants;
//! DWARF itself serves nobody afterwards, is four fifths of the object, and the
//! agent would carry it and read its relocations at each start. BTF, with the
//! source lines that verifier messages show, stays.

use anyhow::{Context as _, Result};
use object::{
    build::elf::{Builder, Section, SectionData},
    elf::SHT_STRTAB,
};

/// The object without its `.debug_*` sections.
///
/// # Errors
///
/// When `bytes` is no ELF object.
pub(crate) fn debug_sections(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(bytes).context("it is no ELF object")?;
    for section in &mut elf.sections {
        section.delete = is_debug(&section.name);
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; the writer wants two.
    if !elf.sections.iter().any(names_sections) {
        let names = elf.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("the object without debug sections cannot be written")?;
    Ok(stripped)
}

/// Whether a section is the table of the sections' names.
fn names_sections(section: &Section<'_>) -> bool {
    matches!(section.data, SectionData::SectionString)
}

/// Whether a section is DWARF, or the relocations of DWARF.
fn is_debug(name: &[u8]) -> bool {
    name.strip_prefix(b".rel")
        .unwrap_or(name)
        .starts_with(b".debug_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dwarf_is_told_from_btf_and_programs() {
        for dwarf in [".debug_info", ".rel.debug_info", ".debug_str"] {
            assert!(is_debug(dwarf.as_bytes()), "{dwarf}");
        }
        for kept in [
            ".BTF",
            ".rel.BTF.ext",
            ".text",
            ".rel.text",
            ".maps",
            ".symtab",
            "",
        ] {
            assert!(!is_debug(kept.as_bytes()), "{kept}");
        }
    }

    #[test]
    fn a_stripped_binary_keeps_its_code_and_loses_its_dwarf() {
        use object::read::{Object as _, ObjectSection as _};

        let path = std::env::current_exe().unwrap();
        let before = std::fs::read(path).unwrap();
        let after = debug_sections(&before).unwrap();
        let [before, after] = [&before, &after].map(|bytes| {
            object::read::elf::ElfFile64::<object::Endianness>::parse(&**bytes).unwrap()
        });
        assert!(before.section_by_name(".debug_info").is_some());
        assert!(after.section_by_name(".debug_info").is_none());
        let text = |file: &object::read::elf::ElfFile64<'_>| {
            file.section_by_name(".text")
                .unwrap()
                .data()
                .unwrap()
                .to_vec()
        };
        assert_eq!(text(&before), text(&after));
        assert!(debug_sections(b"no object").is_err());
    }
}
