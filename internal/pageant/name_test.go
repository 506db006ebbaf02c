package pageant

import "testing"

// The name that PuTTY's own plink (of May 2026, built for Windows) opens where
// CryptProtectMemory changes nothing, as under Wine.
func TestPipeName(t *testing.T) {
	const want = "pageant.winetest.2e9e7389b30cd8240bf15518e9a228d6537dc38d64b2070a189ca2fe5452d492"
	if got := pipeOf("winetest", hidden); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
