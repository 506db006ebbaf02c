// Package contract holds the end-to-end tests of drvsock's contract. Each
// scenario is played by real programs: natively on one machine, in the view
// without drvsock, where it has to fail, and through drvsock run. What the
// programs see must be the same bytes as natively. The kernel is the oracle;
// where a want is written down it is what unix(7) promises.
package contract
