// An echo server and its client over a Unix socket, on Node's net.
const net = require('net');
const [, , role, path, conns, bytes] = process.argv;

function pattern(c, n) {
  const b = Buffer.alloc(n);
  for (let i = 0; i < n; i++) b[i] = c + (i % 251);
  return b;
}

if (role === 'server') {
  net.createServer({ allowHalfOpen: true }, (s) => {
    s.on('error', (e) => console.error(e.message));
    s.pipe(s);
  }).listen({ path, backlog: 128 });
} else {
  const n = Number(bytes);
  let left = Number(conns);
  for (let c = 0; c < Number(conns); c++) {
    const want = pattern(c, n);
    const got = [];
    const s = net.createConnection({ path, allowHalfOpen: true });
    s.on('connect', () => s.end(want));
    s.on('data', (d) => got.push(d));
    s.on('error', (e) => { console.error(e.message); process.exit(1); });
    s.on('end', () => {
      if (!Buffer.concat(got).equals(want)) {
        console.error(`connection ${c} came back otherwise`);
        process.exit(1);
      }
      if (--left === 0) console.log(conns, bytes, path);
    });
  }
}
