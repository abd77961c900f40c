"""The construction of docs/code.md once more, in plain Python, written from the document: makes the vectors beside it.

    python3 docs/vectors/code.py
"""
import os

M64=(1<<64)-1; G=0x9E3779B97F4A7C15
def mix(z):
    z=((z^(z>>30))*0xBF58476D1CE4E5B9)&M64
    z=((z^(z>>27))*0x94D049BB133111EB)&M64
    return z^(z>>31)
def key(nonce,d,a,b):
    k=mix((nonce+G*d)&M64); k=mix(((k+G)&M64)^a); return mix(((k+G)&M64)^b)
def word(k,i): return mix((k+G*(i+1))&M64)
def coefs(k,n):
    out=[]
    for t in range(n):
        b=(word(k,t//8)>>(8*(t%8)))&255
        out.append(((b*255)>>8)+1)
    return out
def mul(a,b):
    r=0
    while b:
        if b&1: r^=a
        a<<=1
        if a&256: a^=0x11d
        b>>=1
    return r
def dims(k):
    a=1
    while a*a<k: a+=1
    return a,-(-k//a)
def perm(nonce,k,rnd,at):
    a,b=dims(k); kk=key(nonce,2,rnd,0); i=0; T=[]
    for s in range(4):
        n,below=(b,a) if s%2==0 else (a,b)
        T.append([((word(kk,i+j)>>32)*below)>>32 for j in range(n)]); i+=n
    l,r=at//b,at%b
    while True:
        l=(l+T[0][r])%a; r=(r+T[1][l])%b; l=(l+T[2][r])%a; r=(r+T[3][l])%b
        s=l*b+r
        if s<k: return s
def npow2(x):
    p=1
    while p<x: p*=2
    return p
def degs(k):
    P=npow2(min(max(k//16,4),128)); ilog=k.bit_length()-1
    H=min(max(P*(ilog*3//4),1),k); out=[]
    for n in range(256):
        q=n*95%256
        out.append(H if n%P==P-1 else min(256//(q+1)+1,64,k))
    return out
def column(k,m,deg,nonce,batch,col):
    sb=-(-k//m); n=(batch-sb)*m+col
    if deg=='F':
        D=degs(k); first=n//256*sum(D)+sum(D[:n%256]); d=D[n%256]
        sup=[perm(nonce,k,p//k,p%k) for p in range(first,first+d)]
    elif deg==k: sup=list(range(k))
    else: sup=[perm(nonce,k,p//k,p%k) for p in range(n*deg,(n+1)*deg)]
    return sup,coefs(key(nonce,1,batch,col),len(sup))
D = os.path.join(os.path.dirname(os.path.abspath(__file__)), '')
with open(D+'code-prng.txt','w') as f:
    f.write("# nonce domain a b i word, all hexadecimal: word i of the stream (nonce, domain, a, b).\n")
    for nonce,d,a,b,i in [(0,1,0,0,0),(0,1,0,0,1),(0,2,0,0,0),(0,3,0,0,0),(1,1,0,0,0),(0,1,1,0,0),(0,1,0,1,0),(0x0123456789abcdef,1,0x40,7,9),(M64,2,M64,0,0xffff)]:
        f.write(f"{nonce:x} {d} {a:x} {b:x} {i:x} {word(key(nonce,d,a,b),i):016x}\n")
with open(D+'code-columns.txt','w') as f:
    f.write("# K M degrees nonce batch column, then the column as symbol:coefficient in the order of the generator.\n# degrees: a number n for Even(n), F for the fountain. The nonce and the coefficients are hexadecimal.\n")
    for k,m,deg,nonce,batch,col in [(1,4,1,0,1,0),(5,4,5,1,2,0),(5,4,5,1,2,3),(5,4,4,1,2,1),(10,4,3,2,3,0),(10,4,3,2,3,1),(10,4,3,2,3,2),(10,4,3,2,3,3),(100,16,9,0xdeadbeef,7,5),(1024,16,40,7,64,0),(1024,16,40,7,1000,15),(65535,64,70,3,4000000000,63),(1,4,'F',0,1,0),(7,8,'F',5,1,0),(7,8,'F',5,1,1),(7,8,'F',5,1,7),(1000,16,'F',9,63,0),(1000,16,'F',9,63,1),(1000,16,'F',9,100,3),(65000,16,'F',9,4063,0),(65000,16,'F',9,1000000,9)]:
        s,c=column(k,m,deg,nonce,batch,col)
        f.write(f"{k} {m} {deg} {nonce:x} {batch} {col} "+" ".join(f"{x}:{y:02x}" for x,y in zip(s,c))+"\n")
def symbol(src,k,m,deg,nonce,batch,col):
    sb=-(-k//m)
    if batch<sb: return src[batch*m+col]
    out=[0]*len(src[0])
    for s,c in zip(*column(k,m,deg,nonce,batch,col)):
        out=[o^mul(c,x) for o,x in zip(out,src[s])]
    return bytes(out)
with open(D+'code-block.txt','w') as f:
    f.write("""# block K size M degrees nonce source: a block and its source symbols one after another.
# symbol batch column bytes: an unmixed symbol. mixed batch vector bytes: a combination of the columns of a batch, as a relay makes it.
# decoded: the symbols since the block line suffice.
""")
    for k,size,m,deg,nonce,lost in [(5,8,4,5,0x11,[1]),(9,6,4,5,0x22,[0,5]),(6,5,4,'F',0x33,[2]),(20,3,16,7,0x44,[3,4,5])]:
        src=[bytes((i*size+j)*37%256 for j in range(size)) for i in range(k)]
        f.write(f"block {k} {size} {m} {deg} {nonce:x} "+b''.join(src).hex()+"\n")
        sb=-(-k//m)
        for i in range(k):
            if i not in lost: f.write(f"symbol {i//m} {i%m} {src[i].hex()}\n")
        for j in range(m): f.write(f"symbol {sb} {j} {symbol(src,k,m,deg,nonce,sb,j).hex()}\n")
        vec=[(17*j+3)%256 for j in range(m)]
        out=[0]*size
        for j,c in enumerate(vec): out=[o^mul(c,x) for o,x in zip(out,symbol(src,k,m,deg,nonce,sb+1,j))]
        f.write(f"mixed {sb+1} {bytes(vec).hex()} {bytes(out).hex()}\n")
        vec=[(5*j+1)%256 if j<min(m,k) else 0 for j in range(m)]
        out=[0]*size
        for j,c in enumerate(vec):
            if c: out=[o^mul(c,x) for o,x in zip(out,src[j])]
        f.write(f"mixed 0 {bytes(vec).hex()} {bytes(out).hex()}\n")
        f.write("decoded\n")
with open(D+'code-window.txt','w') as f:
    f.write("""# window W size nonce: a window. source number bytes: a symbol that arrives; lost number bytes: one that does not.
# repair id first count bytes: a repair of everything in the window. decoded: nothing is missing now.
""")
    W,size,nonce=4,6,0x55
    f.write(f"window {W} {size} {nonce:x}\n"); sent=[];rid=0
    for n in range(7):
        s=bytes((n*41+j*13)%256 for j in range(size)); sent.append(s)
        f.write(f"{'lost' if n in (2,5) else 'source'} {n} {s.hex()}\n")
        if n in (3,6):
            first=max(0,n-W+1); cnt=n+1-first; out=[0]*size
            for c,x in zip(coefs(key(nonce,3,rid,0),cnt),sent[first:]): out=[o^mul(c,y) for o,y in zip(out,x)]
            f.write(f"repair {rid} {first} {cnt} {bytes(out).hex()}\n"); rid+=1
            f.write("decoded\n")
