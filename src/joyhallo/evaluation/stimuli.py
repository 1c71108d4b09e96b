"""The stimuli of the Mandarin viseme test: isolated syllables in which every class comes beside many neighbours."""

_TEXT = """
ba1 ba4 bao1 ban4 bi3 bi4 bu4 bo1 bing1 bai2 bang1
pa2 pao3 pi2 pu3 po4 ping2 pai2 pan2
ma1 ma3 mao1 mi3 mu4 mo2 ming2 mai3 man4 mang2
da4 dao4 di4 du2 duo1 ding1 ta1 tao2 ti2 tu3 tuo1
na2 ni3 nu3 nv3 la4 li4 lu4 lv4 luo4 lan2
ga1 gu3 guo2 gua1 ka3 ku1 kua4 ha1 hu2 huo3 hua1
ji1 jia1 ju2 qi1 qu4 qing2 xi1 xu1 xia4 xing1
zha2 zhu1 cha2 chu1 sha1 shu1 za2 zu3 cao3 san1 su4
a1 yi1 wu3 yu2 wo3 ya2 ying1 an1
"""
SYLLABLES = tuple(_TEXT.split())  # the tone is a part of the name, not of the test; v is ü
