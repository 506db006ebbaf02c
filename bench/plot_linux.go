package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"slices"
	"strings"
)

// Measures of the plot, in pixels.
const (
	plotWidth  = 860
	labelWidth = 170
	valueWidth = 80
	barHeight  = 11
	rowGap     = 14
)

// colours are those of the contestants, in order; drvsock's are blue.
func colours(r *report) map[string]string {
	greys := []string{"#444", "#888", "#b8a27a", "#c98f8f", "#9fb59a", "#c2b5d0"}
	blues := []string{"#0b5fa5", "#3d8fd1", "#8cc0ea", "#b9dcf5"}
	c := map[string]string{}
	var o, p int
	for _, n := range r.Names {
		if slices.Contains(r.Ours, n) {
			c[n] = blues[o%len(blues)]
			o++
		} else {
			c[n] = greys[p%len(greys)]
			p++
		}
	}
	return c
}

// writeSVG draws every figure: a bar per contestant for the median, on a
// logarithmic scale, with a line from the lowest round to the highest.
func (r *report) writeSVG(name string) error {
	var b strings.Builder
	colour := colours(r)
	y := 44
	var body strings.Builder
	for _, unit := range []string{"MB/s", "us"} {
		better := "more is better"
		if unit == "us" {
			better = "less is better"
		}
		fmt.Fprintf(&body, "<text x=\"0\" y=\"%d\" font-weight=\"bold\">%s, %s, logarithmic</text>\n", y+10, unit, better)
		y += 24
		low, high := r.bounds(unit)
		x := func(v float64) float64 {
			v = min(max(v, low), high)
			return labelWidth + (plotWidth-labelWidth-valueWidth)*math.Log(v/low)/math.Log(high/low)
		}
		for _, row := range r.Figures {
			if row.Unit != unit {
				continue
			}
			fmt.Fprintf(&body, "<text x=\"0\" y=\"%d\">%s</text>\n", y+barHeight, html.EscapeString(row.Name))
			for _, n := range r.Names {
				s := row.Spread[n]
				mid := y + barHeight/2
				fmt.Fprintf(&body, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"><title>%s: %.0f</title></rect>\n",
					labelWidth, y, x(s.Median)-labelWidth, barHeight-1, colour[n], html.EscapeString(n), s.Median)
				fmt.Fprintf(&body, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#000\" stroke-opacity=\".45\"/>\n", x(s.Min), x(s.Max), mid, mid)
				fmt.Fprintf(&body, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" font-size=\"9\">%.0f</text>\n", plotWidth, y+barHeight-2, s.Median)
				y += barHeight
			}
			y += rowGap
		}
		y += rowGap
	}
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n", plotWidth, y)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"0\" y=\"12\" font-size=\"9\">%s; median of %d rounds, line from lowest to highest</text>\n",
		html.EscapeString(r.Machine), r.Rounds)
	at := 0
	for _, n := range r.Names {
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"22\" width=\"10\" height=\"10\" fill=\"%s\"/><text x=\"%d\" y=\"31\">%s</text>\n", at, colour[n], at+14, html.EscapeString(n))
		at += 24 + 7*len(n)
	}
	b.WriteString(body.String())
	b.WriteString("</svg>\n")
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

// bounds are powers of ten around all that is drawn in a unit.
func (r *report) bounds(unit string) (low, high float64) {
	low, high = math.Inf(1), 1
	for _, row := range r.Figures {
		if row.Unit != unit {
			continue
		}
		for _, s := range row.Spread {
			low, high = min(low, s.Min), max(high, s.Max)
		}
	}
	down := math.Pow(10, math.Floor(math.Log10(max(low, 1))))
	return min(down, high/10), math.Pow(10, math.Ceil(math.Log10(high)))
}
