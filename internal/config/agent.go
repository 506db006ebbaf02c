package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"drvsock/internal/drive"
	"drvsock/internal/report"
)

// RelativeProgram returns the program that the command line of a link begins
// with if that is a relative path, "" if it is none or quoted: each process would
// look for it somewhere else.
func RelativeProgram(link string) string {
	word := strings.TrimLeft(link, " \t")
	if i := strings.IndexAny(word, " \t\n;&|<>()"); i >= 0 {
		word = word[:i]
	}
	if !strings.Contains(word, "/") || strings.HasPrefix(word, "/") || strings.ContainsAny(word, "'\"\\$`~=*?[{#") {
		return ""
	}
	return word
}

// agent checks how an agent is reached. The daemon's working folder is / and of
// no meaning to who writes the file, so that all paths are absolute.
func (d *document) agent(prefix string, a Agent) {
	if a.Link != "" && len(a.Embed) > 0 {
		d.wrong(prefix+"embed", errors.New("link and embed exclude each other: embed is a link of its own"))
	}
	if word := RelativeProgram(a.Link); word != "" {
		d.wrong(prefix+"link", fmt.Errorf("%s is no absolute path", word))
	}
	for i, s := range a.Embed {
		d.drive(prefix+"embed."+strconv.Itoa(i), s, 2)
	}
	for i, s := range a.Drive {
		d.drive(prefix+"drive."+strconv.Itoa(i), s, 1)
	}
}

// drive checks a letter and at most so many folders.
func (d *document) drive(key, s string, folders int) {
	o, err := drive.ParseOverride(s)
	if err != nil {
		d.wrong(key, report.Hint(errors.New("want a drive letter, '=' and a folder"), "for example \"C=/mnt/c\""))
		return
	}
	for _, dir := range strings.SplitN(o.View, ":", folders) {
		if !filepath.IsAbs(dir) {
			d.wrong(key, fmt.Errorf("%q is no absolute path", dir))
			return
		}
	}
}
