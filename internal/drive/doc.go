// Package drive knows the drives of the host that the guest sees: how their
// mounts look, which mount a path lies on, and what the host calls it.
//
// Names cross between the systems as DrvFS maps them ([EscapeName]). Mounts
// are read from mountinfo ([ParseMounts]) and recognised by [NewTable]. Where a
// path lies is asked of the kernel ([Locate], Linux only) and never guessed
// from its text; [Translate] alone works on text, since that is what wslpath,
// whose answers it gives, does.
package drive
