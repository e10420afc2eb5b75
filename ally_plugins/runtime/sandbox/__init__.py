"""The sandbox that a plugin's process enters before anything of the plugin runs (Linux, x86-64 and aarch64).

`box` is what one may do, `enter` closes it around the calling process, `support` says what this kernel can keep;
`refused` and `rights` are tables, `bpf` and `landlock` make of them what the kernel takes, `kernel` calls it. Only the
standard library and this folder: the guardian, which stays small, and forked children load it by its path, with
relative imports.

No library carries its weight here: `pyseccomp` needs the native libseccomp on the machine; `landlock`, `py-landlock`
and `landlockpy` are young, know nothing of the filter, and would have to be loaded in the guardian; `sandlock` brings a
native supervisor of 13 MB and asks for a new kernel; programs such as bubblewrap must be installed, and cost a process
at each start. What is needed is a handful of system calls and two tables, which whoever trusts them wants to read.
"""
