/* bcryptprimitives.dll for Wine before 9: the one function of it that Go needs. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID, ULONG); /* RtlGenRandom */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE out, SIZE_T n)
{
    while (n) {
        ULONG part = n > 1 << 28 ? 1 << 28 : (ULONG)n;
        if (!SystemFunction036(out, part)) return FALSE;
        out += part;
        n -= part;
    }
    return TRUE;
}
