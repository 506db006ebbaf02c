package preset

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"drvsock/internal/report"
)

// Shells are those whose syntax Assign knows.
var Shells = []string{"sh", "fish", "pwsh", "powershell"}

// Shell finds the shell's syntax for what $SHELL says: sh for all that
// understand sh, and for what isn't known.
func Shell(name string) string {
	switch base := strings.TrimSuffix(path.Base(strings.ReplaceAll(name, `\`, "/")), ".exe"); base {
	case "fish", "pwsh", "powershell":
		return base
	}
	return "sh"
}

// Assign is a line that gives a variable a value and exports it. name is one
// that config accepts, and value has no line ends and no NUL.
func Assign(shell, name, value string) (string, error) {
	switch shell {
	case "sh":
		return fmt.Sprintf("export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`)), nil
	case "fish":
		// Within single quotes, a backslash quotes itself and a quote.
		return fmt.Sprintf("set -gx %s '%s'\n", name, strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(value)), nil
	case "pwsh", "powershell":
		return fmt.Sprintf("${env:%s} = '%s'\n", name, powershellQuotes.Replace(value)), nil
	}
	return "", report.Hint(fmt.Errorf("no shell %q", shell), "one of %s", strings.Join(slices.Sorted(slices.Values(Shells)), ", "))
}

// powershellQuotes doubles what PowerShell takes for a single quote, which are
// also the typographic ones (about_Quoting_Rules, CharTraits.IsSingleQuote).
var powershellQuotes = strings.NewReplacer("'", "''", "‘", "‘‘", "’", "’’", "‚", "‚‚", "‛", "‛‛")
