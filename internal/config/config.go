// Package config holds what the user declares: the agents, forwards and mounts of
// config.toml. It reads the file strictly, says which place of it is wrong, and
// adds and removes single forwards and mounts without touching the rest.
package config

import (
	"os"
	"path/filepath"
	"slices"
)

// Bounds of a file. They are far above what people write and keep what a broken
// generator writes from becoming thousands of listeners.
const (
	MaxSize     = 1 << 20 // bytes
	MaxForwards = 256     // and mounts
	MaxAgents   = 16
	MaxList     = 64   // elements of a list, and variables of a forward
	MaxString   = 4096 // bytes of one string
	MaxName     = 64   // bytes of a forward's or agent's name
)

// A File is the whole configuration.
type File struct {
	Agent
	// Agents are further agents by name, which forwards name in Agent.
	Agents   map[string]Agent `toml:"agent,omitempty" json:"agent,omitempty"`
	Forwards []Forward        `toml:"forward,omitempty" json:"forward,omitempty"`
	Mounts   []Mount          `toml:"mount,omitempty" json:"mount,omitempty"`
}

// Agent says how an agent is reached, in the words of `drvsock run`'s flags.
// The zero value is the default: drvsock.exe, and drives from the mount table.
type Agent struct {
	Link  string   `toml:"link,omitempty" json:"link,omitempty"`   // command line whose stdin and stdout are the link
	Embed []string `toml:"embed,omitempty" json:"embed,omitempty"` // L=DIR[:VIEW]
	Drive []string `toml:"drive,omitempty" json:"drive,omitempty"` // L=VIEW
}

// A Forward is one listener and what its connections are connected to. As
// written, its guest paths may hold ~ and variables; see Resolve.
type Forward struct {
	Name    string            `toml:"name,omitempty" json:"name,omitempty"`
	Listen  string            `toml:"listen" json:"listen"`
	Connect string            `toml:"connect" json:"connect"`
	Agent   string            `toml:"agent,omitempty" json:"agent,omitempty"`     // "" is the default one
	Mode    string            `toml:"mode,omitempty" json:"mode,omitempty"`       // octal; of a guest socket file, 0600 by default
	Owner   string            `toml:"owner,omitempty" json:"owner,omitempty"`     // of the same, by name or number
	Group   string            `toml:"group,omitempty" json:"group,omitempty"`     // likewise
	Access  []string          `toml:"access,omitempty" json:"access,omitempty"`   // accounts that may connect to a host listener besides its own
	Message bool              `toml:"message,omitempty" json:"message,omitempty"` // the pipe listened on is a message pipe
	Allow   *Allow            `toml:"allow,omitempty" json:"allow,omitempty"`     // nil: whoever gets through the listener's permissions
	Filter  string            `toml:"filter,omitempty" json:"filter,omitempty"`   // "" or "ssh-agent"
	Env     map[string]string `toml:"env,omitempty" json:"env,omitempty"`         // for shells; {listen} stands for the listener's address
}

// Allow names the callers that a forward serves.
type Allow struct {
	// User holds user names and uids for guest callers, account names,
	// DOMAIN\name for host callers, or the SID of an account without a name.
	// Empty: nobody.
	User []string `toml:"user" json:"user"`
}

// FilterSSHAgent is the name of the one filter there is.
const FilterSSHAgent = "ssh-agent"

// Path returns where the file is: $XDG_CONFIG_HOME/drvsock/config.toml, or below
// ~/.config if that isn't set or no absolute path, as the XDG Base Directory
// Specification has it. Empty if there is no home folder either.
func Path() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil || !filepath.IsAbs(home) {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "drvsock", "config.toml")
}

// Forward returns the forward of that name, nil if there is none.
func (f *File) Forward(name string) *Forward {
	i := slices.IndexFunc(f.Forwards, func(w Forward) bool { return w.Name == name })
	if i < 0 {
		return nil
	}
	return &f.Forwards[i]
}
